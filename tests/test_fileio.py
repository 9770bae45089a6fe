"""Atomic writes: all of a file or none of it."""

import errno
import io
import logging
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprune import fileio
from mmprune.checkpoint import write_checkpoint
from mmprune.datafiles import write_data
from mmprune.errors import UnwritableError, exit_on_input_error
from mmprune.fileio import atomic_folder, atomic_path, check_outputs
from mmprune.lock import only_run_in


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


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    for place, said in (
        (tmp_path / 'pipe', 'is a device or a pipe'),
        (Path('/dev/null'), 'is a device or a pipe'),
        (tmp_path / 'a\0b', 'no name of a file'),
        (tmp_path / ('x' * 300), 'File name too long'),
    ):
        with pytest.raises(UnwritableError, match=said):
            check_outputs([place])
        with pytest.raises(UnwritableError, match=said), atomic_path(place):
            pytest.fail('the block must not run')
    with (
        pytest.raises(UnwritableError, match='is a device or a pipe'),
        atomic_folder(tmp_path) as unfinished,
    ):
        (unfinished / 'a').touch()
        (unfinished / 'pipe').touch()
    assert names(tmp_path) == ['pipe']


# -- sets of files, and what kills leave --------------------------------------------------


def test_files_of_a_set_appear_together(tmp_path: Path) -> None:
    (tmp_path / 'b').write_text('old')
    with pytest.raises(ValueError, match='stop'), atomic_folder(tmp_path) as unfinished:
        (unfinished / 'a').write_text('new')
        (unfinished / 'b').write_text('new')
        raise ValueError('stop')
    assert (names(tmp_path), (tmp_path / 'b').read_text()) == (['b'], 'old')
    with atomic_folder(tmp_path) as unfinished:
        (unfinished / 'a').write_text('new')
        (unfinished / 'b').write_text('new')
        assert names(tmp_path) == [unfinished.name, 'b']
    assert (names(tmp_path), (tmp_path / 'b').read_text()) == (['a', 'b'], 'new')


def test_a_set_is_the_old_one_or_the_new_one_up_to_the_rename_at_which_it_is_killed(
    tmp_path: Path,
) -> None:
    """What says nothing of its set is there with a whole set only."""
    names_of_set = ('a', 'apart', 'b')
    for renamed in range(4):
        for name in names_of_set:
            (tmp_path / name).write_text('old')
        child = os.fork()
        if child == 0:
            replace, left = os.replace, iter(range(renamed))

            def until_killed(*args: Any, replace: Any = replace, left: Any = left) -> None:
                if next(left, None) is None:
                    os._exit(9)
                replace(*args)

            os.replace = until_killed
            with atomic_folder(tmp_path, apart='apart') as unfinished:
                for name in names_of_set:
                    (unfinished / name).write_text('new')
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = {name: (tmp_path / name).read_text() for name in names_of_set[:: 2 - (renamed > 2)]}
        assert found == dict(zip(found, ['new'] * renamed + ['old'] * 3, strict=False))
        assert (tmp_path / 'apart').exists() == (renamed == 3)
        assert os.waitstatus_to_exitcode(status) == (0 if renamed == 3 else 9)
    with atomic_folder(tmp_path, apart='apart') as unfinished:
        (unfinished / 'a').write_text('newest')
    assert names(tmp_path) == ['a', 'b']


KILLED = """
import os, signal, sys
from mmprune.errors import exit_on_input_error
from mmprune.fileio import atomic_path
with exit_on_input_error(), atomic_path(sys.argv[1]) as unfinished:
    unfinished.write_text('half')
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    unfinished.write_text('whole')
"""


def killed(target: Path, by: str) -> int:
    return subprocess.run([sys.executable, '-c', KILLED, str(target), by], check=False).returncode


def test_what_a_kill_has_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    target = tmp_path / 'x.txt'
    assert killed(target, 'SIGKILL') == -9
    (left,) = names(tmp_path)
    assert left.startswith('.mmprune-unfinished-')
    with atomic_path(tmp_path / 'other.txt') as mine:
        with atomic_path(tmp_path / 'another.txt'):
            pass
        assert mine.exists(), 'whose process lives'
    assert names(tmp_path) == ['another.txt', 'other.txt']


@pytest.mark.parametrize(('by', 'status'), [('SIGTERM', 143), ('SIGHUP', 129)])
def test_a_signal_that_asks_to_end_cleans_up(by: str, status: int, tmp_path: Path) -> None:
    target = tmp_path / 'x.txt'
    target.write_text('old')
    assert killed(target, by) == status
    assert (names(tmp_path), target.read_text()) == (['x.txt'], 'old')


# -- places that cannot be written to -----------------------------------------------------


def test_mixed_up_files_and_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    check_outputs([tmp_path / 'a' / 'b.txt', tmp_path / 'file', None], [tmp_path, tmp_path / 'c'])
    assert names(tmp_path) == ['file'], 'nothing is made'
    for files, folders in (
        ([tmp_path / 'file' / 'x.txt'], []),
        ([], [tmp_path / 'file']),
        ([], [tmp_path / 'file' / 'x' / 'y']),
    ):
        with pytest.raises(UnwritableError, match='file is a file, where a folder should be'):
            check_outputs(files, folders)
    with pytest.raises(UnwritableError, match='is a folder, not a file'):
        check_outputs([tmp_path])


def test_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnwritableError, match=r'bytes are free there, and 1,[0,]+ are needed'):
        check_outputs(folders=[tmp_path], size=10**18)
    number = {'errno': errno.ENOSPC}

    def full(*_: object) -> None:
        raise OSError(number['errno'], os.strerror(number['errno']))

    monkeypatch.setattr(fileio, '_flush', full)
    for code in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        number['errno'] = code
        with pytest.raises(UnwritableError, match=f'x: cannot be written: {os.strerror(code)}'):
            check_outputs([tmp_path / 'x'])
        with pytest.raises(UnwritableError, match=os.strerror(code)), atomic_path(tmp_path / 'x'):
            pass
    assert names(tmp_path) == []


def test_a_file_that_is_cut_off_by_the_system_is_told(tmp_path: Path) -> None:
    """As on a full disk, torch says something else."""
    torch.save({'state_dict': {'w': torch.ones(9)}}, tmp_path / 'w.pth')
    before, limits = (tmp_path / 'w.pth').read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(UnwritableError, match='cannot be written: File too large'):
            write_checkpoint({'state_dict': {'w': torch.ones(10**6)}}, tmp_path / 'w.pth')
        with (
            pytest.raises(UnwritableError, match=f'^{tmp_path}: cannot be written: File too'),
            atomic_folder(tmp_path) as unfinished,
        ):
            write_data(['x' * 10**6], unfinished / 'x.json')
        with pytest.raises(UnwritableError, match='File too large'):
            write_data(['x' * 10**6], tmp_path / 'x.json')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (names(tmp_path), (tmp_path / 'w.pth').read_bytes()) == (['w.pth'], before)


def test_a_disk_that_fills_up_under_somebody_elses_hands_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mmengine's logs and configs, say; a log that cannot be written is passed over."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    record = logging.makeLogRecord({'msg': 'one'})
    with (
        pytest.raises(SystemExit, match='2'),
        exit_on_input_error(),
        only_run_in(tmp_path, 'a training'),
    ):
        logging.StreamHandler(Full()).handle(record)
        Full().write('x')
    assert capsys.readouterr().err == f'error: {tmp_path}: No space left on device.\n'
    with pytest.raises(OSError, match='output'), exit_on_input_error():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
