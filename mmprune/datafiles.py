"""Files of plain data, YAML and JSON: read without running anything, in bounded memory.

A key that stands twice is refused, where parsers take the last one. A small file must not become
large: YAML may name a part again and again, or inside of itself, and nest deeper than a parser's
stack. What is read can be printed and written again: numbers and texts that cannot are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import no_file, write_text

DEEPEST = 64
"""How deep lists and mappings may be nested."""
MOST_NODES = 10**7
"""How many values a file may hold, those counted again that it names again."""
# The C versions are eight times as fast; a ResNet-50's index lists take seconds in Python.
_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
YAML_DUMPER: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
_BROKEN = (ValueError, RecursionError, yaml.YAMLError)
_MOST_BITS = 64


def read_data(path: str | os.PathLike[str], what: str, error: type[InputError] = InputError) -> Any:
    """Read a file of plain data: JSON if its name ends so, else YAML.

    Args:
        path: The file.
        what: What it is, for messages: ``'a topology'``.
        error: What is raised.

    Raises:
        InputError: It is missing, no text, broken, or a trap.
    """
    text = read_text(path, what, error)
    try:
        return parse_json(text) if Path(path).suffix == '.json' else parse_yaml(text)
    except _BROKEN as reason:
        where = ' '.join(str(reason).split())
        raise error(f'{path}: broken or cut off: {where}') from reason


def read_text(path: str | os.PathLike[str], what: str, error: type[InputError] = InputError) -> str:
    """Read a file of text in UTF-8; arguments as of :func:`read_data`.

    Raises:
        InputError: It is missing, no text, or may not be read.
    """
    problem = no_file(path)
    if problem:
        kind = MissingFileError if error is InputError else error
        raise kind(f'{path}: cannot be read as {what}: it {problem}')
    try:
        return Path(path).expanduser().read_text(encoding='utf-8')
    except (OSError, ValueError) as reason:
        raise error(f'{path}: cannot be read as {what}: {reason}') from reason


def parse_json(text: str) -> Any:
    """JSON in which no key stands twice.

    Raises:
        ValueError: It is none, nests too much, or holds what cannot be written again.
        RecursionError: It is nested too deeply.
    """
    content = json.loads(
        text, object_pairs_hook=_unique, parse_int=lambda digits: _fit(int(digits))
    )
    inside = [content]
    for _ in range(DEEPEST + 1):
        inside = [
            each
            for part in inside
            if isinstance(part, dict | list)
            for each in (part.values() if isinstance(part, dict) else part)
        ]
    if inside:
        raise ValueError(f'it is nested more than {DEEPEST} deep')
    if '\\u' in text:  # half a character may be escaped, and is no text
        json.dumps(content, ensure_ascii=False).encode()
    return content


def parse_yaml(text: str) -> Any:
    """Plain data from YAML in which no key stands twice.

    Raises:
        ValueError, yaml.YAMLError: It is none, holds objects, or grows beyond all bounds.
    """
    _measure(text)
    try:
        return yaml.load(text, _Loader)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f'a value is not what its tag says it is ({error!r})') from error


def write_data(content: Any, path: str | os.PathLike[str]) -> None:
    """Write plain data, as JSON or YAML by the name; read again before it gets that name."""
    is_json = Path(path).suffix not in ('.yaml', '.yml')
    text = json.dumps(content, indent=1) if is_json else yaml.safe_dump(content, width=100)
    write_text(text if text.endswith('\n') else f'{text}\n', path)


class _Loader(_LOADER):
    """Reads plain data, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build the mapping of a node."""
        _unique((key.value, key.tag) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Build a whole number."""
        return _fit(super().construct_yaml_int(node))

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        """Build what mmengine writes into a config in YAML for a tuple."""
        return tuple(self.construct_sequence(node, deep=True))


_Loader.add_constructor('tag:yaml.org,2002:python/tuple', _Loader.construct_tuple)
_Loader.add_constructor('tag:yaml.org,2002:int', _Loader.construct_yaml_int)


def _fit(number: int) -> int:
    """A whole number that can be printed, and computed with."""
    if number.bit_length() > _MOST_BITS:
        raise ValueError(f'a whole number has more than {_MOST_BITS} bits')
    return number


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key {key!r} stands twice')
        found[key] = value
    return found


def _measure(text: str) -> None:
    """Refuse YAML that nests or grows too much, before anything is made of it."""
    known: dict[str, tuple[int, int]] = {}
    # What is open: its anchor, how many values it stands for, how deep they are nested in it.
    open_nodes: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1, 1))
        elif isinstance(event, yaml.CollectionEndEvent | yaml.NodeEvent):
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, size, depth = open_nodes.pop()
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in known:
                    raise ValueError(f'*{event.anchor} stands where there is no such part yet')
                anchor, (size, depth) = None, known[event.anchor]
            else:
                anchor, size, depth = event.anchor, 1, 0
            if anchor is not None:
                known[anchor] = size, depth
            outer, before, least = open_nodes[-1]
            open_nodes[-1] = outer, before + size, max(least, depth + 1)
            if before + size > MOST_NODES:
                raise ValueError(f'it stands for more than {MOST_NODES:,} values')
        if len(open_nodes) - 1 + open_nodes[-1][2] > DEEPEST:
            raise ValueError(f'it is nested more than {DEEPEST} deep')
