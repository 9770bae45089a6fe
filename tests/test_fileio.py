"""Atomic writes: all of a file or none of it."""

import os
import stat
from pathlib import Path

import pytest

from mmprune.errors import UnwritableError
from mmprune.fileio import atomic_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_into_new_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    target = tmp_path / 'a' / 'b' / 'subnet.yaml'
    with atomic_path(target) as unfinished:
        assert unfinished.parent.parent == target.parent
        assert unfinished.name == target.name
        assert not target.exists()
        unfinished.write_text('one')
    assert target.read_text() == 'one'
    assert names(target.parent) == ['subnet.yaml']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / 'subnet.yaml'
    target.write_text('old')
    with pytest.raises(error), atomic_path(target) as unfinished:
        unfinished.write_text('half')
        raise error
    assert target.read_text() == 'old'
    assert names(tmp_path) == ['subnet.yaml']


def test_failure_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='stop'), atomic_path(tmp_path / 'x.pth'):
        raise ValueError('stop')
    assert names(tmp_path) == []


def test_a_writer_may_remove_and_make_the_file_itself(tmp_path: Path) -> None:
    """Some writers unlink what is there first."""
    with atomic_path(tmp_path / 'x.onnx') as unfinished:
        unfinished.unlink()
        unfinished.write_bytes(b'graph')
    assert (tmp_path / 'x.onnx').read_bytes() == b'graph'


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / 'x.onnx'
    target.write_bytes(b'old')
    with pytest.raises(FileNotFoundError), atomic_path(target) as unfinished:
        unfinished.unlink()
    assert target.read_bytes() == b'old'


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / 'x.txt'
    with atomic_path(target) as first, atomic_path(target) as second:
        first.write_text('first')
        second.write_text('second')
    assert target.read_text() == 'first'  # the outer block ends last
    assert names(tmp_path) == ['x.txt']


def test_permissions_are_those_of_an_ordinary_file_or_of_the_old_one(tmp_path: Path) -> None:
    ordinary, target = tmp_path / 'ordinary', tmp_path / 'x'
    ordinary.touch()
    with atomic_path(target):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    target.chmod(0o640)
    with atomic_path(target):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / 'real.txt', tmp_path / 'link.txt'
    real.write_text('old')
    os.symlink(real.name, link)
    with atomic_path(link) as unfinished:
        unfinished.write_text('new')
    assert link.is_symlink()
    assert real.read_text() == 'new'


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match='name a file inside it'), atomic_path(tmp_path):
        pytest.fail('the block must not run')
