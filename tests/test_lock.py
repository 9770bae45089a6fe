"""One run at a time in a folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmprune.errors import InputError, UnwritableError
from mmprune.lock import only_run_in

# Takes the folder, and has a forked child that outlives it, as workers of a data loader do.
HOLDER = """
import os, sys, time
from mmprune.lock import only_run_in
with only_run_in(sys.argv[1], 'training'):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_the_second_run_is_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / 'new' / 'folder'
    with only_run_in(folder, 'a search'):
        message = rf'{folder}: a search goes on here in process {os.getpid()} on .+ since 20'
        with pytest.raises(InputError, match=message), only_run_in(folder, 'training'):
            raise AssertionError('two runs in one folder')
        with only_run_in(tmp_path, 'training'):
            pass
    with only_run_in(folder, 'training'):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused there."""

    def flock(handle: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, 'flock', flock)
    begun: list[int] = []
    with only_run_in(tmp_path, 'a search', 'begins', lambda: begun.append(1)):
        assert begun == [1]
        with only_run_in(tmp_path, 'training'):
            pass


def test_a_place_without_room_for_a_lock(tmp_path: Path) -> None:
    (tmp_path / '.mmprune_lock').mkdir()
    with (
        pytest.raises(UnwritableError, match=r'mmprune_lock: cannot be written'),
        only_run_in(tmp_path, 'a test'),
    ):
        pytest.fail('the block must not run')


def test_a_lock_that_says_nothing_yet(tmp_path: Path) -> None:
    with only_run_in(tmp_path, 'training'):
        (tmp_path / '.mmprune_lock').write_text('')
        with pytest.raises(InputError, match='another run'), only_run_in(tmp_path, 'training'):
            pass


def test_the_lock_dies_with_its_owner_and_not_with_its_children(tmp_path: Path) -> None:
    command = [sys.executable, '-c', HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            refused = rf'process {holder.pid} on'
            with pytest.raises(InputError, match=refused), only_run_in(tmp_path, 'training'):
                pass
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            time.sleep(0.05)
            os.kill(child, 0)  # is alive
            with only_run_in(tmp_path, 'training'):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
