"""A failure in a channel rule pins what reached it, and says where; it never ends a preparation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mmprune.channels.labels import LabelBook, Value, pin_all
from mmprune.errors import InputError
from mmprune.trace.trace_graph import TraceNode


def apply_rule(
    rule: Callable[..., Any], node: TraceNode, inputs: list[Value | None], book: LabelBook
) -> list[Value]:
    """The labels that a rule gives the outputs of a node.

    Where the rule fails, its inputs are pinned with what went wrong as the reason, and nothing is
    said of its outputs.
    """
    given = node, inputs, book
    is_empty = all(0 in shape for shape in node.shapes)
    try:
        found = rule(*_as_of_one(*given) if is_empty else given)
        outputs: Sequence[Value] = found if isinstance(found, list) else [found]
        return [_with_shape(*pair) for pair in zip(outputs, node.shapes, strict=True)]
    except InputError:
        raise
    except Exception as error:  # whatever it is, the rest of the network can be pruned
        why = 'has no elements' if is_empty else failed(node, error)
        pin_all(inputs, book, why)
        return _unlabelled(node, book, why)


def _as_of_one(
    node: TraceNode, inputs: list[Value | None], book: LabelBook
) -> tuple[TraceNode, list[Value | None], LabelBook]:
    """An operation on no elements (an expert without tokens) as one on some: its channels are so.

    It costs nothing.
    """
    ones = [tuple(size or 1 for size in shape) for shape in node.shapes]
    values = [v and replace(v, shape=tuple(size or 1 for size in v.shape)) for v in inputs]
    return replace(node, shapes=tuple(ones)), values, replace(book, products=[])


def _with_shape(value: Value, shape: tuple[int, ...]) -> Value:
    """A value of a shape that may be without elements, and without labels along such dims."""
    if 0 not in shape:
        return value
    return replace(value, shape=shape, factors=[f for f in value.factors if 0 not in f.shape])


def failed(node: TraceNode, error: Exception) -> str:
    """What to say about an error that nobody expected."""
    where = f'{node.source} of {node.module or "the root module"}'
    return f'labelling failed in {where}: {type(error).__name__}: {error}; please report'


def _unlabelled(node: TraceNode, book: LabelBook, reason: str) -> list[Value]:
    fixed = book.fixed(reason)
    return [Value(shape, [], fixed) for shape in node.shapes]
