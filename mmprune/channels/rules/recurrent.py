"""Rule of recurrent layers: hidden channels go with their gates and with what reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmprune.channels.labels import IntArray, LabelBook, Value, axes_of, pin_all
from mmprune.channels.rules.contraction import channels_along, layer_of
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


@dataclass(frozen=True)
class _Direction:
    """The weights of one layer in one direction, and the labels of what it gives."""

    into: Value
    recurrent: Value
    biases: list[Value]
    projection: Value | None

    def unite(self, inside: IntArray, gates: int, book: LabelBook) -> tuple[IntArray, IntArray]:
        """Labels of the hidden channels and of the outputs, which are read at the next step."""
        rows = channels_along(self.into, 0, book).reshape(gates, -1)
        hidden = rows[0]
        for value in (self.into, self.recurrent, *self.biases):
            book.unite(channels_along(value, 0, book).reshape(gates, -1), hidden)
        book.unite(channels_along(self.into, 1, book), inside)
        out = hidden
        if self.projection is not None:
            book.unite(channels_along(self.projection, 1, book), hidden)
            out = channels_along(self.projection, 0, book)
        book.unite(channels_along(self.recurrent, 1, book), out)
        return hidden, out


@CHANNEL_RULES.register_module(name='recurrent')
def recurrent(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Inputs: data (..., I), states, weights; outputs: data (..., D R) and states, or states.

    All layers and directions have one hidden size, so each keeps equally many channels.
    """
    attrs = node.attrs
    data, states = inputs[0], inputs[1 : 1 + attrs['states']]
    weights = [value for value in inputs[1 + attrs['states'] :] if value is not None]
    if data is None or len(weights) < len(inputs) - 1 - attrs['states']:
        pin_all(inputs, book, f'{node.where}: its input or one of its weights is a constant')
        fixed = book.fixed(f'comes from {node.where}')
        return [Value(shape, [], fixed) for shape in node.shapes]
    rank = len(data.shape)
    for factor in data.factors:
        if axes_of(factor) != (rank - 1,):
            book.pin(factor, f'{node.where} steps along the channels')
    count = attrs['layers'] * attrs['directions']
    parts = [
        weights[i : i + len(weights) // count]
        for i in range(0, len(weights), len(weights) // count)
    ]
    layer = layer_of(node, weights[0], book)
    inside = channels_along(data, rank - 1, book)
    hidden, outs = [], []
    for first in range(0, count, attrs['directions']):
        book.add_site(layer, 'in', inside, node.id)
        results = []
        for part in parts[first : first + attrs['directions']]:
            direction = _direction(part, attrs['has_biases'])
            own, out = direction.unite(inside, attrs['gates'], book)
            _count(node, layer, data, direction, (inside, own, out), book)
            hidden.append(own)
            results.append(out)
        outs += results
        inside = np.concatenate(results)
        book.add_site(layer, 'out', inside, node.id)
    book.add_site(layer, 'in', np.concatenate(outs), node.id)
    rows = {'hidden': np.stack(hidden), 'out': np.stack(outs)}
    for name, labels in rows.items():
        book.equal_counts(labels, f'{node.where} has one {name} size for all of its layers')
    return _outputs(node, states, inside, rows, book)


def _direction(weights: list[Value], has_biases: bool) -> _Direction:
    biases = weights[2:4] if has_biases else []
    rest = weights[2 + len(biases) :]
    return _Direction(weights[0], weights[1], biases, rest[0] if rest else None)


def _outputs(
    node: TraceNode,
    states: list[Value | None],
    last: IntArray,
    rows: dict[str, IntArray],
    book: LabelBook,
) -> list[Value]:
    """Labels of the outputs; initial states have those of the states that are given back."""
    fixed = book.fixed('has positions there, not channels')
    per_state = [rows['out'], *[rows['hidden']] * (len(states) - 1)]
    for value, labels in zip(states, per_state, strict=True):
        if value is None:
            continue
        if len(labels) == 1:
            book.unite(channels_along(value, len(value.shape) - 1, book), labels[0])
        else:
            _start(node, value, labels, book)
    values = []
    has_data = len(node.shapes) > len(states)
    for shape, labels in zip(node.shapes, [last[None]] * has_data + per_state, strict=True):
        if len(labels) == 1:
            factor = labels[0].reshape((1,) * (len(shape) - 1) + (-1,))
        else:
            factor = labels.reshape(len(labels), *(1,) * (len(shape) - 2), -1)
        values.append(Value(shape, [factor] if axes_of(factor) else [], fixed))
    return values


def _start(node: TraceNode, state: Value, labels: IntArray, book: LabelBook) -> None:
    """Let all layers and directions, a row of labels each, start from a state (n, ..., C)."""
    own = [factor for factor in state.factors if factor.shape[-1] > 1]
    if len(own) == 1 and set(axes_of(own[0])) <= {0, len(state.shape) - 1}:
        rows = own[0].reshape(-1, labels.shape[1])
        for first, second in zip(np.broadcast_to(rows, labels.shape), labels, strict=True):
            book.unite(first, second)
    else:
        book.pin(labels, f'{node.where} starts from other channels')
        pin_all([Value(state.shape, own)], book, f'{node.where} starts from it')
    others = [factor for factor in state.factors if factor.shape[-1] == 1]
    pin_all([Value(state.shape, others)], book, f'{node.where} starts from it')


def _count(
    node: TraceNode,
    layer: str,
    data: Value,
    direction: _Direction,
    labels: tuple[IntArray, IntArray, IntArray],
    book: LabelBook,
) -> None:
    """Every gate of every hidden channel reads all inputs and all outputs of the step before."""
    inside, hidden, out = labels
    steps = int(np.prod(data.shape[:-1]))
    gates = direction.into.shape[0] // len(hidden)
    rows = Value((steps, len(hidden)), [hidden[None]])
    book.add_product(layer, node.id, rows, gates, [(inside, 1)])
    book.add_product(layer, node.id, rows, gates, [(out, 1)])
    if direction.projection is not None:
        projected = Value((steps, len(out)), [out[None]])
        book.add_product(layer, node.id, projected, 1, [(hidden, 1)])
