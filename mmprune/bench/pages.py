"""What all benchmarks write: texts in files and in pages of the documentation, versions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprune.errors import InputError
from mmprune.fileio import write_text


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (headings, ['---'] * len(headings), *rows)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


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


def check_chosen(what: str, chosen: Sequence[str], known: Collection[str]) -> None:
    """Refuse choices that there are not, and none at all.

    Raises:
        InputError: Names them.
    """
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        raise InputError(f'{what} are {", ".join(known)}, not {unknown or "none"}')


def read_rows(
    path: str | os.PathLike[str],
    form: str,
    what: str,
    read: Callable[[Mapping[str, Any]], object],
) -> dict[str, Any]:
    """The content of a file that a benchmark has written.

    Args:
        path: A JSON file.
        form: Its format.
        what: What it should be, in words.
        read: Reads a row, or fails.

    Raises:
        InputError: It is another file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        if content['format'] != form:
            raise ValueError(f'the format is {content["format"]!r}, not {form!r}')
        for row in content['rows']:
            read(row)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: no {what} ({error})') from error
    return dict(content)
