"""Where a study is kept: a journal file, or a database that many machines reach."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mmprune.dependencies import require
from mmprune.errors import InputError
from mmprune.fileio import no_file
from mmprune.lock import only_run_in

JOURNAL = 'study.journal'
"""The file of a study in the work directory of its search."""
RESULTS = 'search_results.json'
WRITTEN = (JOURNAL, RESULTS, 'subnet_*.yaml', 'search.html', 'search.png')
"""What a search writes into its work directory."""


_BEGIN = b'{"op_code"'
"""How each line of a journal begins."""


class StorageError(InputError):
    """A study that cannot be read or written."""


@contextmanager
def open_storage(where: str) -> Iterator[Any]:
    """Have a storage of Optuna's, which is made if there is none, and close it at the end.

    Args:
        where: The path of a journal file, or a URL as SQLAlchemy has them, such as
            ``'postgresql+psycopg://user:password@host/database'``.

    Raises:
        StorageError: It cannot be opened, or the file is none.
    """
    optuna = require('optuna', 'a search')
    with storage_errors(where):
        if '://' in where:
            database = _database(where)
            storage = optuna.storages.get_storage(database)
        else:
            database = None
            _check_journal(where)
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            journal = optuna.storages.journal.JournalFileBackend(where, lock_obj=_FileLock(where))
            storage = optuna.storages.JournalStorage(journal)
    try:
        yield storage
    finally:
        if database is not None:
            database.remove_session()
            database.engine.dispose()


def _check_journal(path: str) -> None:
    """Refuse a file that is none, before a line is taken off or added.

    Raises:
        StorageError: It is something else.
    """
    if not os.path.lexists(path):
        return
    problem = no_file(path)
    if not problem:
        with open(path, 'rb') as file:
            begin = file.read(len(_BEGIN))
        # A killed process may have left only a part of a line.
        problem = '' if _BEGIN.startswith(begin) else 'holds something else'
    if problem:
        raise StorageError(f'{path}: not the study of a search: it {problem}.')


def _database(url: str) -> Any:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    # A connection may have been closed while a candidate was evaluated.
    options = dict(pool_pre_ping=True)
    for _ in range(5):
        with suppress(IntegrityError, ProgrammingError):  # several workers are making its tables
            return RDBStorage(url, engine_kwargs=options)
        time.sleep(0.5)
    return RDBStorage(url, engine_kwargs=options)


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Say of errors below which storage they are of, and what to do.

    Raises:
        StorageError: In the place of what Optuna, SQLAlchemy, a driver or the system raises.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except InputError:
        raise
    except (StorageInternalError, SQLAlchemyError, OSError, ImportError) as error:
        cause = str(error.__cause__ or error).strip().partition('\n')[0]
        raise StorageError(
            f'{hidden(where)}: the study cannot be read or written ({type(error).__name__}: '
            f'{cause}). What it holds is safe: when this is mended, the search goes on from it.'
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise StorageError(f'{hidden(where)}: not the study of a search ({error!r}).') from error


def hidden(where: str) -> str:
    """A storage's place for a message: without its password."""
    return re.sub(r'(//[^/@:]*):[^@]*@', r'\1:***@', where)


class _FileLock:
    """Lets one process at a time append to a journal.

    Optuna's own locks stay behind when a process is killed, and hold up the others for half a
    minute; this one goes with its process. What a killed process, or a full disk, has left of a
    line is taken off before the next one is written, or no later line could be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = file = Path(self._path).open('r+b')  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b'\n':
                file.seek(0)
                file.truncate(file.read().rfind(b'\n') + 1)
        return True

    def release(self) -> None:
        """Let the next process have it."""
        assert self._file is not None
        self._file.close()


@contextmanager
def presence(journal: Path, anew: bool) -> Iterator[None]:
    """Be known to be at work in a journal's folder, until the end, however this process ends.

    Args:
        journal: The file; its folder is made if there is none.
        anew: Whether a new study begins here, and not with others: see :func:`set_aside`.

    Raises:
        InputError: A new study would begin where somebody is at work.
    """
    begin = (lambda: set_aside(journal)) if anew or not journal.is_file() else None
    with only_run_in(journal.parent, 'a search', 'begins' if anew else 'joins', begin):
        yield


def set_aside(journal: Path) -> None:
    """Move what an earlier search has left into the next ``earlier_<number>`` beside it.

    Args:
        journal: Where the study of the new search will be. That of the earlier one goes last, so
            that a search which is killed meanwhile can still be gone on with.
    """
    names = [RESULTS, journal.name]
    with suppress(KeyError, TypeError):
        found = results_in(journal.parent)
        names = [*(Path(each['channel_cfg']).name for each in found), *names]
    old = [file for file in map(journal.with_name, names) if file.is_file()]
    if not old:
        return
    number = 1
    while (place := journal.with_name(f'earlier_{number}')).exists():
        number += 1
    place.mkdir()
    for file in old:
        os.replace(file, place / file.name)


def results_in(folder: Path) -> list[dict[str, Any]]:
    """The list of what a search has found, of the folder that it wrote it to; empty without any."""
    with suppress(OSError, ValueError, TypeError):
        found = json.loads((folder / RESULTS).read_text(encoding='utf-8'))
        return [each for each in found if isinstance(each, dict)]
    return []


def check_own_results(folder: Path, study: str, others: Iterable[str] = ()) -> None:
    """Refuse to write the results of a study over those of another one.

    Args:
        folder: Where they go.
        study: The study that is to write there.
        others: Names of other studies that do.

    Raises:
        InputError: Names one of them.
    """
    written = [each.get('study') or study for each in results_in(folder)]
    for other in (name for name in [*others, *written] if name != study):
        raise InputError(
            f"{folder}: holds the study '{other}', whose results those of '{study}' would "
            'overwrite: give another folder, --work-dir DIR'
        )
