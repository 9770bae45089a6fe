"""Recurrent layers and cells as one node of the graph, see ``composites``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmprune.trace.composites import Composite, outside

# Function of torch -> blocks of rows that its weights have, one for each gate.
_GATES = {'lstm': 4, 'gru': 3, 'rnn_tanh': 1, 'rnn_relu': 1}


class Recurrent(Composite):
    """Inputs: data (..., I), initial states, weights.

    ``attrs``: ``gates``; ``states``, their number; ``layers`` and ``directions``, 1 for a cell;
    ``has_biases``.
    """


def _layer(function: Callable[..., Any], gates: int) -> Callable[..., Any]:
    """(data, states, weights, ...), or with the sizes of a packed batch behind the data."""

    def call(*args: Any) -> Any:
        place = 3 if isinstance(args[3], list | tuple) else 2
        states, weights = args[place - 1], args[place]
        states = (states,) if torch.is_tensor(states) else tuple(states)
        has_biases, layers, _, _, both_ways = args[place + 1 : place + 6]
        attrs = dict(
            gates=gates,
            states=len(states),
            layers=layers,
            directions=1 + both_ways,
            has_biases=has_biases,
        )
        results = outside(function, *args)
        return Recurrent.apply(attrs, tuple(results), args[0], *states, *weights)

    return call


def _cell(function: Callable[..., Any], gates: int) -> Callable[..., Any]:
    """(data, states, weights and biases)."""

    def call(data: torch.Tensor, states: Any, *weights: torch.Tensor | None) -> Any:
        results = outside(function, data, states, *weights)
        states = (states,) if torch.is_tensor(states) else tuple(states)
        attrs = dict(
            gates=gates,
            states=len(states),
            layers=1,
            directions=1,
            has_biases=len(weights) > 2 and weights[2] is not None,
        )
        results = (results,) if torch.is_tensor(results) else tuple(results)
        return Recurrent.apply(attrs, results, data, *states, *weights)

    return call


class PadPackedSequence(Composite):
    """Inputs: rows of channels (N, C); given back as (T, B, C) or (B, T, C)."""


_PLAIN_PADDING = torch._pad_packed_sequence


def _pad_packed_sequence(data: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    padded, lengths = outside(_PLAIN_PADDING, data, *args, **kwargs)
    return PadPackedSequence.apply({}, (padded,), data), lengths


RECURRENT: dict[Any, Callable[..., Any]] = {
    **{getattr(torch, name): _layer(getattr(torch, name), g) for name, g in _GATES.items()},
    **{
        getattr(torch, f'{name}_cell'): _cell(getattr(torch, f'{name}_cell'), gates)
        for name, gates in _GATES.items()
    },
    _PLAIN_PADDING: _pad_packed_sequence,
}
"""Function of torch -> what a trace calls in its place."""
