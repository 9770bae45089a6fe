"""Where a whole number comes from, as data: a dim of a tensor, an attribute of a module, both."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Edge = tuple[int, int]
"""(node id, which of the node's outputs)."""


@dataclass(frozen=True)
class Dim:
    """The size of a traced tensor along one dim."""

    edge: Edge
    dim: int


@dataclass(frozen=True)
class Attribute:
    """A number that a module stores, or one of several that it stores under a name.

    Attributes:
        module: Name of the module.
        name: Name of the attribute.
        index: Position in it if it holds several numbers, else None.
    """

    module: str
    name: str
    index: int | None = None


@dataclass(frozen=True)
class Computed:
    """What a function of ``FUNCTIONS`` makes of other numbers."""

    function: str
    operands: tuple[Expression, ...]


Expression = Dim | Attribute | Computed | int
"""Where a number comes from; an int is a number that stands in the code."""

FUNCTIONS: dict[str, Callable[..., int]] = {
    '+': operator.add,
    '-': operator.sub,
    '*': operator.mul,
    '//': operator.floordiv,
    '%': operator.mod,
    '**': operator.pow,
    '>>': operator.rshift,
    '<<': operator.lshift,
    'neg': operator.neg,
    'abs': abs,
}


def is_product(expression: Expression) -> bool:
    """Whether an expression multiplies numbers, and does nothing else."""
    if not isinstance(expression, Computed):
        return True
    return expression.function == '*' and all(map(is_product, expression.operands))


def leaves(expression: Expression) -> Iterator[Dim | Attribute]:
    """The dims and attributes that an expression is made of."""
    pending = [expression]
    while pending:
        part = pending.pop()
        if isinstance(part, Computed):
            pending.extend(reversed(part.operands))
        elif not isinstance(part, int):
            yield part


def evaluate(expression: Expression, value_of: Callable[[Dim | Attribute], int]) -> int | None:
    """The number that an expression gives for these values of its leaves; None if it has none."""
    if isinstance(expression, int):
        return expression
    if not isinstance(expression, Computed):
        return value_of(expression)
    values = [evaluate(operand, value_of) for operand in expression.operands]
    try:
        return FUNCTIONS[expression.function](*values)
    except (TypeError, ZeroDivisionError):
        return None


def text(expression: Expression | None) -> str:
    """An expression as a person would write it."""
    if isinstance(expression, Dim):
        return f'size({expression.dim})'
    if isinstance(expression, Attribute):
        place = '' if expression.index is None else f'[{expression.index}]'
        return f'self.{expression.name}{place}'
    if isinstance(expression, Computed):
        parts = [text(operand) for operand in expression.operands]
        if len(parts) == 2:
            return f'({parts[0]} {expression.function} {parts[1]})'
        return f'{expression.function}({parts[0]})'
    return str(expression)
