"""The pages of the site, as they are laid out for Sphinx: links lead somewhere, all are listed."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site') / 'pages'
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'docs' / 'site')
        sys.modules.pop('stage', None)
        from stage import stage

        stage(folder)
        sys.modules.pop('stage', None)
    return folder


def test_every_page_is_in_the_menu(pages: Path) -> None:
    index = (pages / 'index.md').read_text(encoding='utf-8')
    blocks = re.findall(r'```\{toctree\}\n(.*?)```', index, re.DOTALL)
    listed = [line for block in blocks for line in block.splitlines() if line and line[0] != ':']
    written = [str(path.relative_to(pages).with_suffix('')) for path in pages.rglob('*.md')]
    there = [name for name in written if not name.startswith('files/')]
    assert sorted([*listed, 'index']) == sorted(there)
    assert 'changelog' in listed
    assert 'configs/autoslim' in listed


def test_links_lead_to_pages_and_files(pages: Path) -> None:
    for page in pages.rglob('*.md'):
        text = re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
        for link in re.findall(r'\]\(([^)\s#]+)', text):
            assert '://' in link or (page.parent / link).is_file(), f'{page}: {link}'
    # Out of docs/ they lead to copies.
    text = (pages / 'prune-by-importance.md').read_text(encoding='utf-8')
    assert '](files/configs/importance/' in text


def test_the_reference_has_what_users_import(pages: Path) -> None:
    text = (pages / 'api' / 'mmprune.pruners.md').read_text(encoding='utf-8')
    assert '.. autoclass:: mmprune.pruners.RatioPruner' in text
    everything = [line for p in (pages / 'api').iterdir() for line in p.read_text().splitlines()]
    directives = [line for line in everything if line.startswith('.. auto')]
    assert len(directives) == len(set(directives)) > 50
