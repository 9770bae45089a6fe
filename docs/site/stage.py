"""Lay out the pages of the site: docs/, pages from elsewhere in the repository, an API reference.

The pages of docs/ are written to be read where they are; here they get a menu, and links that leave
the folder lead to a page of the site or to the file itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
MENU = {
    'Begin': 'readme readme_zh-cn notebooks',
    'Prune': (
        'one-call prune-a-network prune-by-importance your-own-images criteria network-slimming '
        'plans topology channel-lists'
    ),
    'Train and search': 'train-a-supernet searching cost latency',
    'Deploy': 'export-and-deploy verify channel-config',
    'Understand': 'diagnose read-the-report what-can-be-pruned errors',
    'Extend': 'extend testing architecture contributing',
    'OpenMMLab': 'stacks from-mmrazor use-with-mim',
    'Measured': 'accuracy benchmarks zoo',
}
"""Pages of the menu; those that nobody has sorted in come last."""
NOT_FOR_USERS = ('mmprune.bench', 'mmprune.zoo')
"""Packages that measure mmprune."""
LINK = re.compile(r'(\]\()([^)\s#]+)(#[^)\s]*)?(\))')
FENCE = re.compile(r'^```.*?^```$', re.MULTILINE | re.DOTALL)


def stage(folder: Path) -> None:
    """Write everything that Sphinx reads into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = {path: _name(path) for path in _sources()}
    for path, name in pages.items():
        _write(folder / name, _led(path.read_text(encoding='utf-8'), path, name, pages, folder))
    for package in _packages():
        _write(folder / 'api' / f'{package}.md', _reference(package))
    with (folder / 'index.md').open('a', encoding='utf-8') as index:
        index.write(_menu(set(pages.values())))


def _sources() -> Iterator[Path]:
    yield from sorted(DOCS.glob('*.md'))
    names = ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
    yield from (ROOT / name for name in names)
    yield from sorted((ROOT / 'configs').glob('*/README.md'))
    yield ROOT / 'notebooks' / 'README.md'


def _name(path: Path) -> str:
    """The page that a file becomes."""
    if path == DOCS / 'README.md':
        return 'index.md'
    if path == DOCS / 'search.md':
        return 'searching.md'  # search.html is Sphinx's own
    if path.parent == ROOT:
        return f'{path.stem.lower()}.md'
    if path.parent.name == 'notebooks':
        return 'notebooks.md'
    if path.name == 'README.md':
        return f'configs/{path.parent.name}.md'
    return path.name


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _led(text: str, source: Path, name: str, pages: dict[Path, str], folder: Path) -> str:
    """A page's text, with links that lead to pages of the site, or to copies of files."""

    def lead(match: re.Match[str]) -> str:
        target = Path(normpath(source.parent / match[2]))
        if '://' in match[2] or not target.exists():
            return match[0]  # a missing page is told by Sphinx
        if target in pages:
            there = pages[target]
        else:
            there = f'files/{target.relative_to(ROOT)}'
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, folder / there)
        return f'{match[1]}{relpath(there, Path(name).parent)}{match[3] or ""}{match[4]}'

    code: list[str] = []

    def put_away(match: re.Match[str]) -> str:
        code.append(match[0])
        return f'\0{len(code) - 1}\0'

    led = LINK.sub(lead, FENCE.sub(put_away, text))
    return re.sub('\0(\\d+)\0', lambda match: code[int(match[1])], led)


def _menu(names: set[str]) -> str:
    """The menu, which stands hidden at the end of the first page."""
    parts = {title: pages.split() for title, pages in MENU.items()}
    listed = {f'{page}.md' for pages in parts.values() for page in pages}
    configs = sorted(name for name in names if name.startswith('configs/'))
    others = sorted(names - listed - {*configs, 'index.md', 'changelog.md'})
    parts['More'] = [name.removesuffix('.md') for name in others]
    parts['Configs'] = [name.removesuffix('.md') for name in configs]
    parts['Reference'] = [*(f'api/{package}' for package in _packages()), 'changelog']
    blocks = [
        '\n'.join(['```{toctree}', ':hidden:', f':caption: {title}', '', *pages, '```'])
        for title, pages in parts.items()
        if pages
    ]
    return '\n\n' + '\n\n'.join(blocks) + '\n'


# -- the API reference -------------------------------------------------------------------


def _packages() -> dict[str, list[str]]:
    """Packages and modules of mmprune with an ``__all__``, and what each is the first to export."""
    import mmprune

    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    names = ['mmprune', *(module.name for module in _modules(mmprune.__path__))]
    names.sort(key='mmprune.extend'.__eq__)  # it hands on what others define
    for name in names:
        if name.startswith(NOT_FOR_USERS) or name.count('.') > 1:
            continue
        module = importlib.import_module(name)
        own = []
        for each in getattr(module, '__all__', ()):
            thing = getattr(module, each)
            documented = inspect.isclass(thing) or inspect.isroutine(thing)
            if documented and not each.startswith('_') and id(thing) not in seen:
                seen.add(id(thing))
                own.append(each)
        if own:
            found[name] = own
    return found


def _modules(path: list[str]) -> Iterator[pkgutil.ModuleInfo]:
    yield from pkgutil.iter_modules(path, 'mmprune.')


def _reference(package: str) -> str:
    module = importlib.import_module(package)
    lines = [
        f'# {package}',
        '',
        '```{eval-rst}',
        f'.. automodule:: {package}',
        '   :no-members:',
        '',
    ]
    for name in _packages()[package]:
        thing = getattr(module, name)
        directive = 'autoclass' if inspect.isclass(thing) else 'autofunction'
        lines += [f'.. {directive}:: {package}.{name}']
        lines += ['   :members:', ''] if inspect.isclass(thing) else ['']
    return '\n'.join([*lines, '```', ''])
