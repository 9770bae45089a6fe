"""What a file may say, as a type; and comparing what was read with it.

A format is written as types: dataclasses, lists, mappings, texts and numbers in a range.
:func:`checked` goes through what was read, and the first thing that is something else is told
with its place. What depends on several values at once, a dataclass checks in ``__post_init__`` by
raising a ``ValueError``.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from mmprune.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers may stand somewhere, as in ``Annotated[int, Range(1)]``.

    Attributes:
        least: The smallest, or what they must be above if ``is_open``.
        most: The largest.
        is_open: Whether ``least`` itself is too small.
        is_finite: Whether NaN and infinities are refused.
    """

    least: float = -math.inf
    most: float = math.inf
    is_open: bool = False
    is_finite: bool = True

    def __contains__(self, value: float) -> bool:
        if not self.is_finite and not math.isfinite(value):
            return True
        low = self.least < value if self.is_open else self.least <= value
        return low and value <= self.most and (isinstance(value, int) or math.isfinite(value))

    def __str__(self) -> str:
        word = 'above' if self.is_open else 'from'
        low = '' if self.least == -math.inf else f'{word} {self.least}'
        high = '' if self.most == math.inf else f'up to {self.most}'
        return ' '.join(part for part in (low, high) if part)


Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Amount = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, is_open=True)]
Metric = Annotated[float, Range(is_finite=False)]

_NAMES: Mapping[Any, str] = {
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
    bool: 'true or false',
    list: 'a list',
    tuple: 'a list',
    Sequence: 'a list',
    dict: 'a mapping',
    Mapping: 'a mapping',
}


class _MismatchError(Exception):
    """What was read is something else, at the end of ``path``."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[Any] = []


def checked(kind: Any, value: Any, where: str, error: type[InputError] = InputError) -> Any:
    """What was read, as the type that it must have.

    Args:
        kind: The type: a dataclass, ``list[...]``, ``dict[str, ...]``, ``tuple[...]``, a union, a
            ``Literal``, ``Annotated`` with a :class:`Range`, ``Any``, or another class.
        value: Plain data. Lists may be tuples, floats may be ints; booleans are no numbers.
        where: The file, for the message.
        error: What is raised.

    Returns:
        The same in the types of ``kind``.

    Raises:
        InputError: Names the place and what was expected there.
    """
    try:
        return _take(kind, value)
    except _MismatchError as mismatch:
        place = ''.join(
            f'[{part}]' if isinstance(part, int) else f'.{part}' for part in mismatch.path
        ).lstrip('.')
        raise error(f'{where}: {f"{place}: " if place else ""}{mismatch}') from None


def shown(value: Any) -> str:
    """A value for a message, not more of it than a line holds."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _take(kind: Any, value: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if origin is Annotated:
        return _number(args[0], value, args[1])
    if kind in (int, float):
        return _number(kind, value, Range())
    if origin in (Union, types.UnionType):
        return _one_of(args, value)
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in args):
            raise _expected(' or '.join(map(repr, args)), value)
        return value
    if dataclasses.is_dataclass(kind):
        return _record(kind, value)
    plain = origin or kind
    if plain in (list, Sequence, tuple) and isinstance(value, list | tuple):
        return _items(plain, args, value)
    if plain in (dict, Mapping) and isinstance(value, Mapping):
        return _entries(args or (Any, Any), value)
    if plain not in (list, Sequence, tuple) and isinstance(value, plain):
        return value
    raise _expected(_name(kind), value)


def _expected(what: str, value: Any) -> _MismatchError:
    return _MismatchError(f'expected {what}, found {shown(value)}')


def _name(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        base, range_ = get_args(kind)
        return f'{_name(base)} {range_}'.strip()
    if dataclasses.is_dataclass(kind):
        return 'a mapping'
    plain = get_origin(kind) or kind
    return _NAMES.get(plain, f'a {getattr(plain, "__name__", plain)}')


def _at(place: Any, kind: Any, value: Any) -> Any:
    try:
        return _take(kind, value)
    except _MismatchError as mismatch:
        mismatch.path.insert(0, place)
        raise


def _number(kind: Any, value: Any, range_: Range) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    fits = type(value) is int or (kind is float and type(value) is float)
    if not fits or value not in range_:
        raise _expected(f'{_name(kind)} {range_}'.strip(), value)
    try:
        return kind(value)
    except OverflowError:
        raise _expected(_name(kind), value) from None


def _one_of(kinds: Sequence[Any], value: Any) -> Any:
    """By the first alternative that fits; what is told is of the one that came furthest."""
    furthest: _MismatchError | None = None
    for kind in kinds:
        try:
            return _take(kind, value)
        except _MismatchError as mismatch:
            if furthest is None or len(mismatch.path) > len(furthest.path):
                furthest = mismatch
    if furthest is None or not furthest.path:
        names = dict.fromkeys(_name(kind) for kind in kinds if kind is not type(None))
        raise _expected(' or '.join(names), value)
    raise furthest


def _items(kind: Any, args: Sequence[Any], value: Sequence[Any]) -> Any:
    if kind is tuple and args[-1:] != (Ellipsis,) and args:
        if len(value) != len(args):
            raise _expected(f'{len(args)} values', value)
        return tuple(_at(n, each, v) for n, (each, v) in enumerate(zip(args, value, strict=True)))
    item = args[0] if args else Any
    is_whole = get_origin(item) is Annotated and get_args(item)[0] is int
    if is_whole and set(map(type, value)) == {int} and _ends_fit(value, get_args(item)[1]):
        return kind(value) if kind is tuple else list(value)  # lists of channels are long
    taken = [_at(number, item, each) for number, each in enumerate(value)]
    return tuple(taken) if kind is tuple else taken


def _ends_fit(value: Sequence[int], range_: Range) -> bool:
    return min(value) in range_ and max(value) in range_


def _entries(args: Sequence[Any], value: Mapping[Any, Any]) -> dict[Any, Any]:
    return {_at(key, args[0], key): _at(key, args[1], each) for key, each in value.items()}


def _record(kind: Any, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise _expected('a mapping', value)
    hints, needed = _fields(kind)
    # What is known comes first: of a later format, the format is told.
    given = {key: _at(key, hint, value[key]) for key, hint in hints.items() if key in value}
    unknown = [key for key in value if key not in hints]
    if unknown:
        raise _MismatchError(f'{shown(unknown[0])} is not known here; {nearest(unknown[0], hints)}')
    missing = [name for name in needed if name not in value]
    if missing:
        raise _MismatchError(f'{missing[0]} is missing')
    try:
        return kind(**given)
    except ValueError as error:
        raise _MismatchError(str(error)) from None


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Types of the fields of a dataclass, and which have no default."""
    hints = get_type_hints(kind, include_extras=True)
    own = [each for each in dataclasses.fields(kind) if each.init]
    none = dataclasses.MISSING
    needed = [each.name for each in own if each.default is none and each.default_factory is none]
    return {each.name: hints[each.name] for each in own}, needed
