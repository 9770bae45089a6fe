"""The stacks: their definitions hold together, and their table is the one that was measured.

That they work is shown by ``make stacks``, which needs a package index.
"""

import json
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent))
try:
    import environments
    import run
finally:
    sys.path.pop(0)

ROOT = Path(__file__).resolve().parents[2]


def test_no_stack_has_two_owners_of_a_folder() -> None:
    owners = ({'mmengine', 'mmengine-lite', 'onedl-mmengine'}, {'mmcv', 'mmcv-lite', 'onedl-mmcv'})
    for stack in environments.STACKS:
        names = {Requirement(line).name for line in (*stack.packages, *stack.without)}
        if stack.wheel:
            names.add(stack.wheel.partition('-')[0])
        assert all(len(names & each) <= 1 for each in owners), stack.name
    assert len({stack.name for stack in environments.STACKS}) == len(environments.STACKS)


def test_constraints_leave_out_what_a_stack_chooses() -> None:
    text = environments.unless_named(['mmengine==0.10.7', 'opencv_python.headless'])
    kept = {line.partition('==')[0] for line in text.splitlines()}
    assert not {'mmengine', 'opencv-python-headless'} & kept
    assert {'numpy', 'torch-pruning', 'mmcls'} <= kept


def test_what_is_shared_is_linked_with_what_it_needs(tmp_path: Path) -> None:
    found = environments.closure(['scipy', 'no-such-distribution'])
    assert {environments.normalised(d.metadata['Name']) for d in found} == {'scipy', 'numpy'}
    environments.link_distributions(found, tmp_path / 'shared')
    names = {path.name for path in (tmp_path / 'shared').iterdir()}
    assert {'scipy', 'numpy'} <= names
    assert any(re.fullmatch(r'numpy-.*\.dist-info', name) for name in names)
    assert '__pycache__' not in names


def test_without_its_wheel_a_stack_is_skipped_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(environments, 'WHEELS', tmp_path)
    result = run.attempt(environments.Stack('some', ('x',), wheel='some-*.whl'))
    assert result.state.startswith('not run: no some-*.whl in ')
    assert capsys.readouterr().err.startswith('SKIPPED some: ')


@pytest.fixture
def results() -> list:
    versions = {'torch': 'torch 2.13.0', 'mmengine': 'mmengine 1'}
    return [
        run.Result('one', 'alone', 'passes', versions, 0.7),
        run.Result('two', 'with a wheel', 'FAILS', {}),
    ]


def test_the_table_says_what_passed(results: list) -> None:
    lines = run.markdown(results).splitlines()
    assert lines[2] == '| one | mmengine 1 |  |  | passes | alone |'
    assert lines[3] == '| two |  |  |  | FAILS | with a wheel |'
    assert 'torch 2.13.0' in run.about(results)
    page = f'before\n{run.BEGIN}\nold\n{run.END}\nafter\n'
    new = run.insert(page, 'new', 'page')
    assert new == f'before\n{run.BEGIN}\n\nnew\n\n{run.END}\nafter\n'
    assert run.insert(new, 'new', 'page') == new
    with pytest.raises(ValueError, match=r'page\.md: needs one line'):
        run.insert('nothing', 'new', 'page.md')


@pytest.mark.parametrize('page', run.PAGES)
def test_pages_list_every_stack_that_is_run_by_default(page: str) -> None:
    text = (ROOT / page).read_text(encoding='utf-8')
    table = text.partition(run.BEGIN)[2].partition(run.END)[0]
    for stack in environments.STACKS:
        if not stack.only_by_name:
            row = re.search(rf'^\| {re.escape(stack.name)} \|.*\|$', table, re.MULTILINE)
            assert row, f'{page}: no {stack.name}; run make stacks'
            assert '| passes |' in row[0]


def test_a_stack_that_fails_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With this interpreter, and a program in the place of the smoke test."""
    monkeypatch.setattr(run, 'FOLDER', tmp_path)
    stack = environments.Stack('here')
    monkeypatch.setattr(run, '__file__', str(tmp_path / 'run.py'))
    (tmp_path / 'smoke.py').write_text("raise RuntimeError('no luck')\n")
    assert run.attempt(stack).state == 'FAILS'
    assert 'FAILED here: RuntimeError: no luck' in capsys.readouterr().err
    measured = {'versions': {'mmengine': 'mmengine 1'}, 'seconds to import': 1}
    (tmp_path / 'smoke.py').write_text(f'print({json.dumps(json.dumps(measured))})\n')
    assert run.attempt(stack).versions == {'mmengine': 'mmengine 1'}
