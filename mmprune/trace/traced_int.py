"""Whole numbers that notice what is done with them."""

from __future__ import annotations

import operator
from typing import Any

from mmprune.trace.expressions import FUNCTIONS


class TracedInt(int):
    """A whole number that notices what is done with it.

    As an int it is what it is; ``_computed`` makes the result of arithmetic that gives a whole
    number, and ``_scale`` what stands for it where it is used as a quantity.
    """

    def _computed(self, function: str, operands: tuple[int, ...], result: int) -> int:
        return result

    def _scale(self) -> int:
        return int.__int__(self)

    __hash__ = int.__hash__

    def __float__(self) -> float:
        return float(self._scale())

    def __truediv__(self, other: Any) -> Any:
        return operator.truediv(self._scale(), scale_of(other))

    def __rtruediv__(self, other: Any) -> Any:
        return operator.truediv(scale_of(other), self._scale())

    def __neg__(self) -> int:
        return self._computed('neg', (self,), int.__neg__(self))

    def __abs__(self) -> int:
        return self._computed('abs', (self,), int.__abs__(self))

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        if isinstance(other, int) and other >= 0 and modulus is None:
            return self._computed('**', (self, other), int.__pow__(self, other))
        return pow(self._scale(), scale_of(other), modulus)

    def __rpow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(scale_of(other), self._scale(), modulus)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (int, (int.__int__(self),))


def _arithmetic(function: str, forward: str, backward: str) -> None:
    plain = FUNCTIONS[function]

    def compute(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int):
            if isinstance(other, float):
                return plain(self._scale(), other)
            return NotImplemented
        return self._computed(function, (self, other), plain(int.__int__(self), int(other)))

    def compute_reflected(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int):
            if isinstance(other, float):
                return plain(other, self._scale())
            return NotImplemented
        return self._computed(function, (other, self), plain(int(other), int.__int__(self)))

    setattr(TracedInt, forward, compute)
    setattr(TracedInt, backward, compute_reflected)


for _function, _name in (
    ('+', 'add'), ('-', 'sub'), ('*', 'mul'), ('//', 'floordiv'), ('%', 'mod'), ('>>', 'rshift'),
    ('<<', 'lshift'),
):  # fmt: skip
    _arithmetic(_function, f'__{_name}__', f'__r{_name}__')


def scale_of(value: Any) -> Any:
    """A value as a quantity: what a traced number stands for, anything else as it is."""
    return value._scale() if isinstance(value, TracedInt) else value
