"""What all benchmarks write: texts in files and in pages of the documentation, versions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from mmprune.errors import InputError
from mmprune.fileio import atomic_path


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding='utf-8')


def insert_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two markers of a page.

    Raises:
        InputError: The page is missing, or does not have the markers once each.
    """
    if not page.is_file():
        raise InputError(f'{page}: there is no such page')
    found = page.read_text(encoding='utf-8')
    if found.count(begin) != 1 or found.count(end) != 1 or found.index(begin) > found.index(end):
        raise InputError(f'{page}: needs one line {begin!r} and after it one line {end!r}')
    before, _, rest = found.partition(begin)
    after = rest.partition(end)[2]
    write_text(f'{before}{begin}\n\n{text}\n{end}{after}', page)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of packages, where they are installed."""
    installed = {each.metadata['Name'].lower(): each.version for each in metadata.distributions()}
    return {name: installed[name] for name in packages if name in installed}
