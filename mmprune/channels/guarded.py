"""A failure in a channel rule pins what reached it, and says where; it never ends a preparation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmprune.channels.labels import LabelBook, Value, pin_all
from mmprune.errors import InputError
from mmprune.trace.trace_graph import TraceNode


def apply_rule(
    rule: Callable[..., Any], node: TraceNode, inputs: list[Value | None], book: LabelBook
) -> list[Value]:
    """The labels that a rule gives the outputs of a node.

    Tensors without elements have none. Where the rule fails, its inputs are pinned with what went
    wrong as the reason, and nothing is said of its outputs.
    """
    if all(0 in shape for shape in node.shapes):
        return _unlabelled(node, book, 'has no elements')
    try:
        found = rule(node, inputs, book)
        outputs: Sequence[Value] = found if isinstance(found, list) else [found]
        return [_without_empty(value) for value in outputs]
    except InputError:
        raise
    except Exception as error:  # whatever it is, the rest of the network can be pruned
        why = failed(node, error)
        pin_all(inputs, book, why)
        return _unlabelled(node, book, why)


def failed(node: TraceNode, error: Exception) -> str:
    """What to say about an error that nobody expected."""
    where = f'{node.source} of {node.module or "the root module"}'
    return f'labelling failed in {where}: {type(error).__name__}: {error}; please report'


def _unlabelled(node: TraceNode, book: LabelBook, reason: str) -> list[Value]:
    fixed = book.fixed(reason)
    return [Value(shape, [], fixed) for shape in node.shapes]


def _without_empty(value: Value) -> Value:
    if 0 in value.shape:
        return Value(value.shape, [], value.fixed)
    return value
