"""What a user adds from a config, without touching mmprune: the page docs/extend.md at work.

The module and the config are the page's own, written to files; then one thing after the
other is taken away.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from kept_registries import kept_registries
from test_docs import blocks_of, is_config, is_program

from mmprune import registry
from mmprune.commands.diagnose import diagnose
from mmprune.search import read_candidates
from mmprune.testing import check_importance, check_pruner, check_rule

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'extend.md'
REGISTRIES = (
    *('BACKWARD_PARSERS', 'CHANNEL_RULES', 'SLICERS', 'DEMO_INPUTS', 'IMPORTANCE', 'PRUNERS'),
    *('LOOPS', 'MODELS'),
)


@pytest.fixture
def registries():
    """Take back what the page registers."""
    with kept_registries(REGISTRIES):
        yield
    sys.modules.pop('my_pruning', None)


@pytest.fixture
def config(tmp_path, monkeypatch, registries):
    """The page's config, beside the project's configs, and the page's module on the path."""
    configs = tmp_path / 'configs'
    (configs / 'mine').mkdir(parents=True)
    for folder in (PAGE.parents[1] / 'configs').iterdir():
        (configs / folder.name).symlink_to(folder)
    blocks = blocks_of(PAGE)
    program = '\n'.join(block.text for block in blocks if is_program(block))
    (tmp_path / 'my_pruning.py').write_text(program, encoding='utf-8')
    (block,) = [block for block in blocks if is_config(block)]
    monkeypatch.syspath_prepend(tmp_path)
    path = configs / 'mine' / 'mine.py'
    path.write_text(block.text, encoding='utf-8')
    return path


def test_the_page_imports_nothing_else_of_mmprune():
    """Nor does the page about checks, but for them."""
    for page, allowed in (
        (PAGE, {'extend'}),
        (PAGE.with_name('testing.md'), {'extend', 'testing'}),
    ):
        text = '\n'.join(block.text for block in blocks_of(page) if block.language == 'python')
        found = re.findall(
            r'^\s*(?:from|import) mmprune(\S*)(?: import (.*))?$', text, re.MULTILINE
        )
        assert found
        assert {module.removeprefix('.') for module, _ in found} <= allowed, page.name
        assert set(re.findall(r'(?<!`)mmprune\.(\w+)', text)) <= {*allowed, 'AutoSlim', 'Mine'}


def test_parts_of_the_page_pass_the_checks(config):
    page = import_module('my_pruning')
    networks = {
        'cumprod': torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3), page.Cumprod(3), torch.nn.Conv2d(16, 4, 3)
        ),
        'elementwise': torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3), page.Sinc(), page.Scale(16), torch.nn.Conv2d(16, 4, 3)
        ),
    }
    for operation, network in networks.items():
        check_rule(operation, network, torch.rand(2, 3, 8, 8), keeps_at_most=0.55)
    check_importance(page.BiasImportance())
    check_pruner(dict(type='AtLeast', least=3))


def test_the_search_of_the_page_finds_a_subnet(config, untrained, search):
    import_module('my_pruning')
    (found,) = search(untrained, type='mmprune.RandomSearch', macs=0.6, candidates=3)
    evaluations = read_candidates(Path(found.channel_cfg).parent)
    assert (found.budget, len(evaluations)) == ('0.6', 3)
    assert found.metric == max(evaluation.metric for evaluation in evaluations)


def groups_of(found):
    return {group.space_id: group for group in found.findings.groups}


def test_all_of_the_page_from_a_config(config, tmp_path):
    found = diagnose(config, out_dir=tmp_path / 'out')
    assert found.exit_status == 0, found.text()
    groups = groups_of(found)
    assert {name for name, group in groups.items() if group.prunable} == {
        'stem',
        'body.3.left',
        'body.3.join',
    }
    tied = groups['body.3.left']
    assert tied.layers == ('body.3.left', 'body.3.right')
    assert (tied.num_channels, found.findings.unknown) == (8, ())


WITHOUT = {
    'parser': (
        ('BACKWARD_PARSERS', 'SincBackward'),
        'stem',
        'goes through SincBackward0, which mmprune does not know, in body.0',
    ),
    'parser of the rule': (
        ('BACKWARD_PARSERS', 'CumprodBackward'),
        'stem',
        'goes through CumprodBackward0, which mmprune does not know, in body.2',
    ),
    'rule': (
        ('CHANNEL_RULES', 'cumprod'),
        'stem',
        'goes through CumprodBackward0, which mmprune does not know, in body.2',
    ),
    'slicer': (
        ('SLICERS', 'Scale'),
        'stem',
        'Scale body.1 reads sizes that mmprune does not mend (RuntimeError: ',
    ),
}


@pytest.mark.parametrize('name', WITHOUT)
def test_without_one_of_them_its_group_is_pinned_and_the_rest_is_not(
    name, config, tmp_path, monkeypatch
):
    (table, key), pinned, reason = WITHOUT[name]
    load = registry.MODELS.build

    def forget(*args, **kwargs):
        """The config has been read, and with it the user's module."""
        getattr(registry, table)._module_dict.pop(key)
        return load(*args, **kwargs)

    monkeypatch.setattr('mmprune.models.algorithm.MODELS.build', forget)
    found = diagnose(config, out_dir=tmp_path / 'out')
    groups = groups_of(found)
    assert groups[pinned].reason.startswith(reason)
    assert groups['body.3.left'].prunable
    assert groups['body.3.join'].prunable
    assert found.is_verified
    if name == 'rule':
        (unknown,) = found.findings.unknown
        assert (unknown.operation, unknown.lacks) == ('cumprod', 'channel rule')


def test_without_the_tie_the_layers_are_two_groups(config, tmp_path):
    found = diagnose(config, out_dir=tmp_path / 'out', cfg_options={'model.pruner.ties': []})
    groups = groups_of(found)
    assert groups['body.3.left'].layers == ('body.3.left',)
    assert groups['body.3.right'].layers == ('body.3.right',)
    assert found.exit_status == 0


@pytest.mark.parametrize(
    ('tie', 'message'),
    [
        (('body.3.left', 'body.3.rihgt'), r"cannot tie 'body.3.rihgt': no traced layer"),
        (('stem', 'body.3.left'), r"cannot tie \('stem', 'body.3.left'\): .*\[16, 8\] output"),
    ],
)
def test_a_tie_that_cannot_be_is_told(tie, message, config, tmp_path):
    options = {'model.pruner.ties': [tie]}
    found = diagnose(config, out_dir=tmp_path / 'out', cfg_options=options)
    assert (found.exit_status, found.problem.stage) == (1, 'prepare')
    assert re.search(message, found.problem.message), found.problem.message


def test_a_plain_network_gets_the_options_of_its_pruner_at_the_top_of_the_config(config, tmp_path):
    text = config.read_text(encoding='utf-8')
    head = text[: text.index('model = ')]
    config.write_text(
        f"{head}model = dict(_delete_=True, type='mmprune.Mine')\n"
        "pruner = dict(ties=[('body.3.left', 'body.3.right')])\n"
    )
    found = diagnose(config, out_dir=tmp_path / 'out', input_shape=(1, 8, 8))
    assert found.exit_status == 0
    assert groups_of(found)['body.3.left'].layers == ('body.3.left', 'body.3.right')
