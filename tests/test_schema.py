"""Types that say what a file may hold, and what is told where it holds something else."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from mmprune.errors import InputError
from mmprune.schema import Amount, Count, Metric, Range, Share, Whole, checked


@dataclass(frozen=True)
class Part:
    name: str
    sizes: list[Count] = field(default_factory=list)


@dataclass(frozen=True)
class Described:
    format: Literal['parts 1']
    parts: dict[str, Part]
    pair: tuple[str, Whole] = ('a', 0)

    def __post_init__(self) -> None:
        if len(self.parts) > 2:
            raise ValueError('more than two parts')


def test_plain_data_becomes_what_it_stands_for() -> None:
    found = checked(
        Described,
        {'format': 'parts 1', 'parts': {'x': {'name': 'y', 'sizes': [1, 2]}}, 'pair': ['b', 3]},
        'file',
    )
    assert found == Described('parts 1', {'x': Part('y', [1, 2])}, ('b', 3))
    assert checked(float, 1, 'file') == 1.0
    assert checked(tuple[Whole, ...], [0, 1], 'file') == (0, 1)
    assert checked(Count | list[Count], [2], 'file') == [2]
    assert checked(Count | None, None, 'file') is None
    assert checked(Metric, float('inf'), 'file') == float('inf')
    assert checked(Any, [object], 'file') == [object]


GOOD = {'format': 'parts 1', 'parts': {'x': {'name': 'y'}}}


@pytest.mark.parametrize(
    ('kind', 'value', 'message'),
    [
        (int, True, 'file: expected a whole number, found True'),
        (int, 1.0, 'expected a whole number, found 1.0'),
        (float, '1', "expected a number, found '1'"),
        (float, float('nan'), 'expected a number, found nan'),
        (float, 10**400, r'expected a number, found 1000.*\.\.\.$'),
        (str, 3, 'expected a text, found 3'),
        (bool, 1, 'expected true or false, found 1'),
        (Count, 0, 'expected a whole number from 1, found 0'),
        (Amount, -1e-9, 'expected a number from 0, found -1e-09'),
        (Share, 0, 'expected a number above 0 up to 1, found 0'),
        (Share, 1.5, 'expected a number above 0 up to 1, found 1.5'),
        (Annotated[int, Range(most=3)], 4, 'expected a whole number up to 3, found 4'),
        (Count | None, 'x', "expected a whole number from 1, found 'x'"),
        (Count | list[Count], [1, 0], r'file: \[1\]: expected a whole number from 1, found 0'),
        (list[int], 'text', "expected a list, found 'text'"),
        (list[Whole], [0, -1], r'\[1\]: expected a whole number from 0, found -1'),
        (list[Whole], [0, True], r'\[1\]: expected a whole number from 0, found True'),
        (tuple[str, int], ['a'], 'expected 2 values'),
        (tuple[str, int], ['a', 'b'], r'\[1\]: expected a whole number'),
        (dict[str, int], [1], r'expected a mapping, found \[1\]'),
        (dict[str, int], {'a': {'b': 1}}, 'file: a: expected a whole number'),
        (dict[str, int], {1: 1}, r'\[1\]: expected a text'),
        (Literal['a', 1], True, "expected 'a' or 1, found True"),
        (Described, None, 'expected a mapping, found None'),
        (Described, {**GOOD, 'format': 'parts 2', 'more': 1}, "format: expected 'parts 1'"),
        (Described, {**GOOD, 'part': 1}, "'part' is not known here; did you mean 'parts'"),
        (Described, {'format': 'parts 1'}, 'file: parts is missing'),
        (
            Described,
            {**GOOD, 'parts': {'x': {'name': 1}}},
            r': parts\.x\.name: expected a text',
        ),
        (
            Described,
            {**GOOD, 'parts': {n: {'name': n} for n in 'abc'}},
            'file: more than two parts',
        ),
    ],
)
def test_what_is_something_else_is_told_with_its_place(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked(kind, value, 'file')


def test_the_error_is_the_callers() -> None:
    class FileError(InputError):
        pass

    with pytest.raises(FileError):
        checked(int, 'x', 'file', FileError)
