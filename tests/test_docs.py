"""The documentation: its Python runs, prints what it says, and names things that exist."""

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from kept_registries import kept_registries
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.registry import LOOPS, MODELS, PRUNERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md')])
TOOLS = sorted(path.stem for path in (ROOT / 'tools').glob('*.py'))

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
# Files that MMRazor 0.x has.
OF_MMRAZOR = [
    'tools/mmcls/train_mmcls.py',
    'tools/mmcls/test_mmcls.py',
    'tools/mmcls/search_mmcls.py',
    'tools/model_converters/split_checkpoint.py',
]
# Rounding differs from machine to machine.
ROUNDING = re.compile(r'\d(\.\d+)?e[-+]\d+')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding='utf-8')
    return [
        Block(match[1], match[2], text.count('\n', 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]


def is_config(block: Block) -> bool:
    """A block of Python that is a config is read as one."""
    starts = re.search(r'^(_base_|custom_imports) = ', block.text, re.MULTILINE)
    return block.language == 'python' and starts is not None


def is_program(block: Block) -> bool:
    """Other blocks of Python are run."""
    return block.language == 'python' and not is_config(block)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def registries() -> Iterator[None]:
    """Take back what a page registers."""
    names = ('BACKWARD_PARSERS', 'CHANNEL_RULES', 'SLICERS', 'IMPORTANCE', 'PRUNERS', 'MODELS',
             'DEMO_INPUTS', 'LOOPS', 'COMPENSATIONS')  # fmt: skip
    with kept_registries(names):
        yield


WITH_PYTHON = [page for page in PAGES if any(map(is_program, blocks_of(page)))]


@pytest.mark.parametrize('page', WITH_PYTHON, ids=name_of)
def test_python_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    """The blocks of a page are one program; a block of text after one is what it prints."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType('documented')
    monkeypatch.setitem(sys.modules, 'documented', module)  # pickle looks classes up there
    blocks = blocks_of(page)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if not is_program(block):
            continue
        printed = io.StringIO()
        # Tracebacks give the line of the page.
        code = compile('\n' * block.line + block.text, str(page), 'exec', dont_inherit=True)
        with contextlib.redirect_stdout(printed):
            exec(code, module.__dict__)
        if after is not None and after.language == 'text':
            assert plain(printed.getvalue()) == plain(after.text), f'{page}:{after.line}'


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in ROUNDING.sub('0.0e+00', text).strip().splitlines()]


CONFIGS = [(page, block) for page in PAGES for block in blocks_of(page) if is_config(block)]


@pytest.mark.parametrize(
    ('page', 'block'), CONFIGS, ids=[f'{name_of(page)}:{block.line}' for page, block in CONFIGS]
)
def test_configs_build(
    page: Path,
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registries: None,
) -> None:
    """A config of a page builds its model, as a file in a folder beside the project's configs."""
    configs = tmp_path / 'configs'
    (configs / 'mine').mkdir(parents=True)
    for folder in (ROOT / 'configs').iterdir():
        (configs / folder.name).symlink_to(folder)
    # A module of the user's that the config imports is what the page's other blocks say.
    program = '\n'.join(other.text for other in blocks_of(page) if is_program(other))
    (tmp_path / 'my_pruning.py').write_text(program, encoding='utf-8')
    file = configs / 'mine' / 'config.py'
    file.write_text(block.text, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config.fromfile(file)
    sys.modules.pop('my_pruning', None)
    init_default_scope('mmcls')
    model = deepcopy(cfg.model)
    for part in (model, model.get('architecture', model)):
        files = part.get('channel_cfg') or []  # which the page's commands write
        for name in [files] if isinstance(files, str) else files:
            write_channel_cfg(tmp_path / name, part.get('model', part.get('architecture')))
    MODELS.build(dict(model, data_preprocessor=cfg.data_preprocessor))
    if 'search_cfg' in cfg:
        classes = LOOPS.get(cfg.search_cfg.type).__mro__
        accepted = {name for each in classes for name in signature(each.__init__).parameters}
        assert set(cfg.search_cfg) - {'type'} <= accepted


def write_channel_cfg(path: Path, model: dict) -> None:
    """The full width of a network, as a channel config."""
    network = MODELS.build(deepcopy(model))
    pruner = PRUNERS.build(dict(_scope_='mmprune', type='RatioPruner', ratios=[1.0]))
    pruner.prepare_from_supernet(network, demo_input=torch.rand(1, 1, 8, 8))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_channel_cfg(pruner.export_subnet(), path)


YAML = [(page, block) for page in PAGES for block in blocks_of(page) if block.language == 'yaml']


@pytest.mark.parametrize(
    ('page', 'block'), YAML, ids=[f'{name_of(page)}:{block.line}' for page, block in YAML]
)
def test_yaml_is_read(page: Path, block: Block, tmp_path: Path) -> None:
    """YAML is a channel config; what lacks the format's first and last line is a part of one."""
    text = block.text
    count = len(yaml.safe_load(text))
    if '__format__' not in text:
        first = dict(name='mmprune channel config', version=1, layers=count)
        text = f'__format__: {first}\n{text}__end__: {count}\n'
    file = tmp_path / 'channel_cfg.yaml'
    file.write_text(text, encoding='utf-8')
    assert load_channel_cfg(file).layers()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub('', page.read_text(encoding='utf-8'))):
        if link.startswith(('http://', 'https://')):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / 'docs' / 'README.md').read_text(encoding='utf-8')
    for page in PAGES:
        if page.parent == ROOT / 'docs' and page.name != 'README.md':
            assert f']({page.name})' in index


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    named = re.findall(
        r'(?<![\w/])(?:configs|tools|tests|mmprune|requirements|docs)/[\w./-]*\w\.\w+', text
    )
    assert not [name for name in named if not (ROOT / name).exists() and name not in OF_MMRAZOR]
    configs = re.findall(r'mim (?:train|test) mmprune ([\w.-]+\.py)', text)
    configs += re.findall(r'mim run mmprune \w+ ([\w.-]+\.py)', text)
    assert not set(configs) - {path.name for path in (ROOT / 'configs').rglob('*.py')}
    assert not set(re.findall(r'mim run mmprune (\w+)', text)) - set(TOOLS)


@pytest.fixture(scope='module')
def options() -> dict[str, set[str]]:
    """The options of every tool, from its help."""
    found = {}
    for tool in TOOLS:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, 'argv', [tool, '--help'])
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'), run_name='__main__')
        found[tool] = set(re.findall(r'--[\w-]+', printed.getvalue()))
    return found


OF_MIM = {'--checkpoint', '--gpus', '--launcher'}
COMMAND = re.compile(
    r'(?:tools/|mim (?:run )?mmprune |mim (?=train|test))(\w+)(?:\.py)?( [^\n`|]*)?'
)


def commands_of(page: Path) -> Iterator[tuple[str, str]]:
    """(tool, arguments) of every command on a page."""
    text = page.read_text(encoding='utf-8').replace('\\\n', ' ')
    for match in COMMAND.finditer(text):
        yield match[1], match[2] or ''


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_options_that_are_named_exist(page: Path, options: dict[str, set[str]]) -> None:
    unknown = [
        f'{tool} {option}'
        for tool, arguments in commands_of(page)
        for option in re.findall(r'(?<!\S)--[\w-]+', arguments)
        if tool in options and option not in options[tool] | OF_MIM
    ]
    assert not unknown


# Twenty steps of an image's size, so that the names of checkpoints are those of the page.
SHORT = [
    *('train_dataloader.dataset.indices=64', 'train_cfg.val_interval=100', 'log_level=ERROR'),
    *('test_dataloader.dataset.indices=64', 'val_dataloader.dataset.indices=64'),
]


@pytest.mark.parametrize('name', ['finetune-with-a-teacher.md'])
def test_commands_run_one_after_the_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of a page's first block of them, on fewer images, in a folder with configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    block = next(block for block in blocks_of(ROOT / 'docs' / name) if block.language == 'sh')
    for line in block.text.replace('\\\n', ' ').splitlines():
        _, tool, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, 'argv', [tool, *arguments, '--cfg-options', *SHORT])
        runpy.run_path(str(ROOT / tool), run_name='__main__')


def test_make_targets_exist() -> None:
    targets = set(re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for page in PAGES:
        for block in blocks_of(page):
            for target in re.findall(r'^make (\w+)', block.text, re.MULTILINE):
                assert target in targets, f'{page}:{block.line}'
