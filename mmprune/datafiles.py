"""Files of plain data, YAML and JSON: read without running anything, in bounded memory.

A key that stands twice is refused, where parsers take the last one. A small file must not become
large: YAML may name a part again and again, and nest deeper than a parser's stack.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import write_text

DEEPEST = 64
"""How deep lists and mappings may be nested."""
MOST_NODES = 10**7
"""How many values a file may hold, those counted again that it names again."""
# The C versions are eight times as fast; a ResNet-50's index lists take seconds in Python.
_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
YAML_DUMPER: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
_BROKEN = (ValueError, RecursionError, yaml.YAMLError)


def read_data(path: str | os.PathLike[str], what: str, error: type[InputError] = InputError) -> Any:
    """Read a file of plain data: JSON if its name ends so, else YAML.

    Args:
        path: The file.
        what: What it is, for messages: ``'a topology'``.
        error: What is raised.

    Raises:
        InputError: It is missing, no text, broken, or a trap.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise FileNotFoundError('it is a folder' if file.is_dir() else 'there is no such file')
        text = file.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as reason:
        missing = isinstance(reason, FileNotFoundError) and error is InputError
        kind = MissingFileError if missing else error
        raise kind(f'{path}: cannot be read as {what}: {reason}') from reason
    try:
        return parse_json(text) if file.suffix == '.json' else parse_yaml(text)
    except _BROKEN as reason:
        where = ' '.join(str(reason).split())
        raise error(f'{path}: broken or cut off: {where}') from reason


def parse_json(text: str) -> Any:
    """JSON in which no key stands twice.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def parse_yaml(text: str) -> Any:
    """Plain data from YAML in which no key stands twice.

    Raises:
        ValueError, yaml.YAMLError: It is none, holds objects, or grows beyond all bounds.
    """
    _measure(text)
    return yaml.load(text, _Loader)


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


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key {key!r} stands twice')
        found[key] = value
    return found


def _measure(text: str) -> None:
    """Refuse YAML that nests or grows too much, before anything is made of it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > DEEPEST:
                raise ValueError(f'it is nested more than {DEEPEST} deep')
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.NodeEvent):
            is_alias = isinstance(event, yaml.AliasEvent)
            anchor, size = event.anchor, sizes.get(event.anchor, 1) if is_alias else 1
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, before = open_nodes[-1]
        open_nodes[-1] = outer, before + size
        if before + size > MOST_NODES:
            raise ValueError(f'it stands for more than {MOST_NODES:,} values')
