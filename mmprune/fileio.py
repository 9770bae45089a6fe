"""Writing files so that a reader sees the old one or the new one, never a half."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when it is complete.

    The temporary file is in the folder of ``path``, because a rename is atomic
    only within one file system, and has the same suffix, because writers such
    as ``Figure.savefig`` choose their format by it. Missing folders are made.
    What reaches the disk is flushed before the rename, so that a machine that
    loses power keeps the old file or the new one.

    If ``path`` is a symbolic link, the file that it points to is replaced and
    the link stays.

    Example:
        >>> with atomic_path('subnet.pth') as unfinished:
        ...     torch.save(state, unfinished)

    Args:
        path: The file to write, which may exist.

    Yields:
        The path to write to. It exists and is empty.

    Raises:
        IsADirectoryError: If ``path`` is a folder. Nothing is written.
        Exception: Whatever is raised inside the ``with`` block; the temporary
            file is removed then, and ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f'{path} is a folder, not a file: name a file inside it.')
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f'.{target.stem}.{uuid4().hex}{target.suffix}')
    try:
        unfinished.touch(exist_ok=False)
        if target.exists():
            shutil.copymode(target, unfinished)
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    # Not every file system lets a folder be flushed; the rename itself is done.
    with suppress(OSError):
        _flush(target.parent)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding='utf-8')


def _flush(path: Path) -> None:
    """Ask the system to put a file's, or a folder's, content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
