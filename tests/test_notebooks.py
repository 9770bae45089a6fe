"""The notebooks: their cells run, one after the other, and need nothing but mmprune."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_registries import kept_registries
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

FOLDER = Path(__file__).resolve().parents[1] / 'notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))


@pytest.fixture
def registries() -> Iterator[None]:
    """Take back what a notebook registers, and what mmengine keeps for the process."""
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
    with kept_registries(('BACKWARD_PARSERS', 'IMPORTANCE')):
        yield


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding='utf-8'))['cells']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    registries: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {'__name__': '__main__'}
    code = [''.join(cell['source']) for cell in cells_of(path) if cell['cell_type'] == 'code']
    for number, text in enumerate(code, 1):
        exec(compile(text, f'{path.name}, cell {number}', 'exec'), scope)
    assert 'verified: supernet and deployed network agree' in capsys.readouterr().out


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_they_print_is_kept(path: Path) -> None:
    """Who reads a notebook without running it sees what it prints, and where its links lead."""
    cells = cells_of(path)
    assert all(cell['outputs'] for cell in cells if cell['cell_type'] == 'code')
    for cell in cells:
        for part in ''.join(cell['source']).split('](')[1:]:
            assert (FOLDER / part.split(')')[0]).is_file()


def test_every_notebook_is_listed() -> None:
    listed = (FOLDER / 'README.md').read_text(encoding='utf-8')
    assert len(NOTEBOOKS) == 3
    assert all(f']({path.name})' in listed for path in NOTEBOOKS)
