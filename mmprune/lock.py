"""A folder that one run writes into at a time."""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from mmprune.errors import FULL, InputError
from mmprune.fileio import writable

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nobody is refused
    fcntl = None  # type: ignore[assignment]

NAME = '.mmprune_lock'
_held: set[int] = set()


Sharing = Literal['alone', 'begins', 'joins']
_PATIENCE = 2.0
"""Seconds to wait for a run that has just begun and lets others join."""


@contextmanager
def only_run_in(
    folder: str | os.PathLike[str],
    doing: str,
    sharing: Sharing = 'alone',
    begin: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Keep a folder from other runs inside of the ``with`` block.

    The lock is the system's and ends with this process, however that ends; children of the
    process, such as workers of a data loader, have no part in it. A small hidden file stays.

    Args:
        folder: Is made if it is missing.
        doing: What this run does, in words: ``'a training'``.
        sharing: ``'alone'``; ``'begins'`` alone, and lets others join; or ``'joins'`` those that
            let it, and begins if there are none.
        begin: What is done when it begins, before others may join.

    Raises:
        InputError: Another run holds the folder; the message has its process and its start.
        UnwritableError: Nothing may be written there.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder) / NAME
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(handle)
    try:
        if _locked(handle, fcntl.LOCK_EX):
            start = datetime.now().isoformat(' ', 'seconds')
            about = dict(doing=doing, process=os.getpid(), host=socket.gethostname(), start=start)
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(about).encode(), 0)
            if begin is not None:
                begin()
            if sharing != 'alone':
                _locked(handle, fcntl.LOCK_SH, math.inf)
        elif sharing != 'joins' or not _locked(handle, fcntl.LOCK_SH, _PATIENCE):
            way = ' Share its work by --resume.' if sharing == 'begins' else ''
            raise InputError(
                f'{folder}: {_owner(path)}, and two runs would overwrite each other there.{way} '
                'Wait until it ends, end it, or choose another folder: --work-dir DIR.'
            )
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(folder)
        raise
    finally:
        _held.discard(handle)
        os.close(handle)


def _locked(handle: int, kind: int, patience: float = 0.0) -> bool:
    """Lock a file, or see that others have it; where there are no locks, nobody has."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True
        else:
            return True


def _owner(path: Path) -> str:
    """Who holds the lock, as far as that is known."""
    try:
        return '{doing} goes on here in process {process} on {host} since {start}'.format(
            **json.loads(path.read_text(encoding='utf-8'))
        )
    except (OSError, ValueError, KeyError, TypeError):  # it is just writing that down
        return 'another run has just begun here'


def _let_go() -> None:
    """In a child that was forked: the parent's lock is to end with the parent."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
