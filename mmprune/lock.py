"""A folder that one run writes into at a time."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mmprune.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nobody is refused
    fcntl = None  # type: ignore[assignment]

NAME = '.mmprune_lock'
_held: set[int] = set()


@contextmanager
def only_run_in(folder: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Keep a folder from other runs inside of the ``with`` block.

    The lock is the system's and ends with this process, however that ends; children of the
    process, such as workers of a data loader, have no part in it. A small hidden file stays.

    Args:
        folder: Is made if it is missing.
        doing: What this run does, in a word: ``'training'``.

    Raises:
        InputError: Another run holds the folder; the message has its process and its start.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f'{folder}: {_owner(path)}, and two runs would overwrite each other there. '
                'Wait until it ends, end it, or choose another folder: --work-dir DIR.'
            ) from None
        _held.add(handle)
        start = datetime.now().isoformat(' ', 'seconds')
        about = dict(doing=doing, process=os.getpid(), host=socket.gethostname(), start=start)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(about).encode(), 0)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


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
