"""Writing files so that a reader sees the old ones or the new ones, never a half.

What is unfinished lies in a folder of its own, which a process keeps locked while it writes. The
lock ends with the process, so that the next one that writes there knows what was abandoned.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from uuid import uuid4

from mmprune.errors import UnwritableError

try:
    import fcntl
except ImportError:  # Windows: what was abandoned stays
    fcntl = None  # type: ignore[assignment]

UNFINISHED = '.mmprune-unfinished-'
"""How the names of folders with unfinished files begin."""
_LEAST_FREE = 2**20
_OF_WRITING = (
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC),
    *(errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.EROFS, errno.EEXIST),
)


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], apart: str = '') -> Iterator[Path]:
    """Write files that belong together, and rename them when all of them are complete.

    They are written under their own names into a folder inside of ``folder``, because a rename is
    atomic only within one file system. Missing folders are made. What reaches the disk is flushed
    before the rename, so that a machine that loses power keeps the old files or the new ones.

    A file that is a symbolic link already stays one, and what it points to is replaced, if that
    is on the same file system.

    Args:
        folder: Where the files go. What killed processes have left in it is removed.
        apart: Name of a file that does not say which set it is of. An old one is removed before
            any other file is replaced, also if there is no new one, which comes last.

    Yields:
        The folder to write to.

    Raises:
        UnwritableError: The disk is full, or nothing may be written there.
        Exception: Whatever is raised inside of the ``with`` block; nothing is renamed then.
    """
    target = Path(folder)
    with writable(target):
        target.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        with _folder_inside(target) as unfinished:
            yield unfinished
            files = {file: _place_of_file(target / file.name) for file in unfinished.iterdir()}
            for file in files:
                _flush(file)
            if apart:
                _place_of_file(target / apart).unlink(missing_ok=True)
            for file, place in sorted(
                files.items(), key=lambda item: (item[0].name == apart, item)
            ):
                if place.exists():
                    shutil.copymode(place, file)
                os.replace(file, place)
    # Not every file system lets a folder be flushed; the rename itself is done.
    with suppress(OSError):
        _flush(target)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write one file as :func:`atomic_folder` does.

    If ``path`` is a symbolic link, the file that it points to is replaced and
    the link stays.

    Example:
        >>> with atomic_path('subnet.pth') as unfinished:
        ...     torch.save(state, unfinished)

    Args:
        path: The file to write, which may exist.

    Yields:
        The path to write to, of the same name. It exists and is empty.

    Raises:
        UnwritableError: If ``path`` is a folder, or nothing can be written there.
        FileNotFoundError: The block has removed the file.
        Exception: Whatever is raised inside the ``with`` block; ``path`` is as it was.
    """
    target = _place_of_file(path)
    with atomic_folder(target.parent) as folder:
        unfinished = folder / target.name
        unfinished.touch(exist_ok=False)
        yield unfinished
        unfinished.stat()


def check_outputs(
    files: Iterable[str | os.PathLike[str] | None] = (),
    folders: Iterable[str | os.PathLike[str] | None] = (),
    size: int = 0,
    inputs: Iterable[str | os.PathLike[str]] = (),
    patterns: Iterable[str] = (),
) -> None:
    """Refuse places that cannot be written to, before the work that is to be written there.

    Args:
        files: Files to be written; None is passed over. They may exist, their folders need not.
        folders: Folders that files are to be written into.
        size: How many bytes will be written there at least.
        inputs: What is read, and must not be lost.
        patterns: What the files that come into the folders are called, such as ``epoch_*.pth``.

    Raises:
        UnwritableError: One is a folder and should be a file, or the reverse, or nothing can be
            written there; or a file is an input, or another output too.
    """
    taken = {os.path.realpath(given): f'is read, as {given}' for given in inputs}
    places = [(_real(each), each) for each in folders if each is not None]
    inside = [Path(file) for file in taken if any(Path(file).parent == p for p, _ in places)]
    found = [file for file in inside if any(fnmatch(file.name, each) for each in patterns)]
    wanted = []
    for each in [*files, *found]:
        if each is None:
            continue
        place = _place_of_file(each)
        if str(place) in taken:
            raise UnwritableError(
                f'{each}: {taken[str(place)]}, and would be overwritten: name another place.'
            )
        taken[str(place)] = 'is the place of another output'
        wanted.append((place.parent, each))
    wanted += places
    names: dict[Path, str | os.PathLike[str]] = {}
    for folder, name in wanted:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise UnwritableError(
                f'{name}: {folder} is a file, where a folder should be: name another place.'
            )
        names.setdefault(folder, name)
    for folder, name in names.items():
        with writable(name), _folder_inside(folder) as probe:
            (probe / 'probe').write_bytes(bytes(4096))
            _flush(probe / 'probe')
            free = shutil.disk_usage(folder).free
        if free < max(size, _LEAST_FREE):
            raise UnwritableError(
                f'{name}: {free:,} bytes are free there, and {max(size, _LEAST_FREE):,} are needed.'
            )


def no_file(path: str | os.PathLike[str]) -> str:
    """Why a path is none of a file that can be read; empty if it is."""
    try:
        place = Path(path).expanduser()
        if place.is_file():
            return ''
        if place.is_dir():
            return 'is a folder'
        return 'is a device or a pipe' if place.exists() else 'does not exist'
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        return f'is no name of a file ({error})'


@contextmanager
def writable(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says about a place where nothing can be written into one message."""
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        if error.errno not in _OF_WRITING:
            raise
        place = Path(*(part for part in Path(name).parts if not part.startswith(UNFINISHED)))
        raise UnwritableError(
            f'{place}: cannot be written: {error.strerror}. Name another place.'
        ) from error


def _place_of_file(path: str | os.PathLike[str]) -> Path:
    """Where a file is written, links followed."""
    place = _real(path)
    if place.is_dir():
        raise UnwritableError(f'{path} is a folder, not a file: name a file inside it.')
    if place.exists() and not place.is_file():  # a rename would put a file in its place
        raise UnwritableError(f'{path} is a device or a pipe, not a file: name a file.')
    return place


def _real(path: str | os.PathLike[str]) -> Path:
    """A place with all links followed."""
    if os.fspath(path).startswith('~'):  # as --out=~/x leaves it
        raise UnwritableError(
            f'{path}: what ~ stands for is known to your shell alone, and not behind a =. Write '
            'the folder out; one of that name is ./~'
        )
    with writable(path):
        try:
            place = Path(os.path.realpath(path))
            place.exists()
            str(place).encode()  # logs and configs have the name
        except ValueError as error:
            raise UnwritableError(f'{path!r}: no name of a file ({error}).') from error
    return place


@contextmanager
def _folder_inside(target: Path) -> Iterator[Path]:
    """An empty folder that is locked, and removed at the end."""
    while True:
        folder = target / f'{UNFINISHED}{uuid4().hex}'
        folder.mkdir()
        with suppress(BlockingIOError):  # it was taken for abandoned between the two
            lock = _locked(folder)
            if folder.exists():
                break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder until the process ends, or what is returned is closed.

    Raises:
        BlockingIOError: Another process has it, or has just removed it.
    """
    if fcntl is None:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:
        raise BlockingIOError from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes have left unfinished in a folder."""
    for folder in target.glob(f'{UNFINISHED}*'):
        with suppress(BlockingIOError):
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file in UTF-8, whole or not at all; it is read again before it gets its name.

    Raises:
        UnwritableError: What is on the disk is something else, or nothing can be written there.
    """
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding='utf-8')
        if unfinished.read_bytes() != text.encode():
            raise UnwritableError(f'{path}: the disk does not keep what is written to it')


def _flush(path: Path) -> None:
    """Ask the system to put a file's, or a folder's, content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
