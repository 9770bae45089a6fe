"""Which tensors have to be masked so that removed channels say nothing.

In masked execution a removed channel still has numbers. They do no harm if they stay in
their channel and are 0, or are multiplied by 0, wherever channels are mixed. Behind a batch
norm whose weight and bias are masked they are 0, and stay 0 through ReLU, residual sums,
pooling and concatenation. Convolutions between such places need no mask, and a mask of a
few vectors costs next to nothing. Everything else is masked as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmprune.channels.labels import IntArray, Value, axes_of
from mmprune.trace.trace_graph import Edge, TraceNode

# Each output element depends on elements of its own channel only.
PER_CHANNEL = frozenset({
    'elementwise', 'batch_norm', 'spatial', 'spatial1d', 'spatial3d', 'view', 'expand',
    'transpose', 'permute', 'cat', 'stack', 'split', 'slice', 'select', 'unbind', 'pad',
    'flip', 'roll', 'repeat',
})  # fmt: skip
MOVES = PER_CHANNEL - {'elementwise', 'batch_norm', 'pad'}

# Element-wise operations that give 0 for 0. All of their inputs must be 0, of products one.
KEEPS_ZERO = frozenset({
    'AbsBackward', 'AliasBackward', 'CloneBackward', 'ContiguousBackward', 'EluBackward',
    'GeluBackward', 'HardswishBackward', 'LeakyReluBackward', 'MishBackward',
    'NativeDropoutBackward', 'NegBackward', 'PreluKernelBackward', 'ReluBackward',
    'SeluBackward', 'SiluBackward', 'TanhBackward', 'ToCopyBackward', 'AddBackward',
    'SubBackward', 'Relu6Backward',
})  # fmt: skip
PRODUCT = 'MulBackward'
QUOTIENT = 'DivBackward'
# They are not finite at 0, or have no finite gradient there.
UNLIKE_AT_ZERO = frozenset({'ReciprocalBackward', 'RsqrtBackward', 'LogBackward', 'SqrtBackward'})
BOUNDED = 'HardtanhBackward'
REDUCES_ZERO = frozenset({'mean', 'sum', 'max', 'amax'})


@dataclass
class Silence:
    """What one pass over the graph learns about masks.

    Attributes:
        masked: Parameters that are masked: weights and biases of norms, and weights of layers
            whose input may hold other numbers than 0 in removed channels.
        exposed: Labels that some operation reads together with others. All tensors that have
            them are masked.
        zero: Edges that are 0 in removed channels.
        divisors: Parameters that must not be 0 there, since something is divided by what is made
            of them.
    """

    masked: set[str] = field(default_factory=set)
    exposed: list[IntArray] = field(default_factory=list)
    zero: set[Edge] = field(default_factory=set)
    divisors: set[str] = field(default_factory=set)
    _made_of: dict[Edge, set[str]] = field(default_factory=dict)

    def visit(
        self, node: TraceNode, inputs: Sequence[Value | None], outputs: Sequence[Value]
    ) -> None:
        """Take note of one operation."""
        if node.op in ('parameter', 'input'):
            return
        self._note_divisors(node, inputs, len(outputs))
        try:
            reads = self._reads_as_layer(node, inputs)
            is_silent = reads or self._stays_in_channel(node, inputs)
            gives_zero = is_silent and self._gives_zero(node, inputs)
        except Exception:  # an operation of somebody else's, say: masks are safe everywhere
            is_silent = gives_zero = False
        if not is_silent:
            self.expose([value for value in (*inputs, *outputs) if value is not None])
        if gives_zero:
            self.zero.update((node.id, index) for index in range(len(outputs)))

    def _note_divisors(self, node: TraceNode, inputs: Sequence[Value | None], outputs: int) -> None:
        """Note what is made of parameters, and whether something is divided by it.

        Each channel of its own: a norm of several is not 0 where some are.
        """
        made_of = [
            self._made_of.get(edge, {name} if (name := _name(value)) else set())
            for edge, value in zip(node.inputs, inputs, strict=True)
            if edge is not None
        ]
        source = node.source.rstrip('0123456789')
        if source in UNLIKE_AT_ZERO or (source == QUOTIENT and node.inputs[-1] is not None):
            self.divisors |= made_of[-1]
        if made_of and all(made_of) and node.op in PER_CHANNEL:
            found = set().union(*made_of)
            self._made_of.update(((node.id, index), found) for index in range(outputs))

    def expose(self, values: Sequence[Value]) -> None:
        """These need zeros wherever they have no channel."""
        self.exposed += [factor[factor >= 0] for value in values for factor in value.factors]

    def _reads_as_layer(self, node: TraceNode, inputs: Sequence[Value | None]) -> bool:
        """Whether it is a convolution or a linear layer; its weight is masked if need be."""
        if node.op == 'conv':
            data, weight = 0, 1
        elif node.op in ('matmul', 'addmm') and len(inputs) >= 2:
            last = len(inputs) - 1
            named = [i for i in (last - 1, last) if _name(inputs[i]) is not None]
            if len(named) != 1:
                return False
            (weight,) = named
            data = 2 * last - 1 - weight
        else:
            return False
        name = _name(inputs[weight])
        value, edge = inputs[data], node.inputs[data]
        if name is None or value is None or edge is None:
            return False
        if value.factors and edge not in self.zero:
            self.masked.add(name)
        return True

    def _stays_in_channel(self, node: TraceNode, inputs: Sequence[Value | None]) -> bool:
        if node.op == 'batch_norm':
            names = [_name(value) for value in inputs[1:3]]
            self.masked.update(name for name in names if name is not None)
        if node.op == 'reduce':
            return _reduces_space(node, inputs)
        return node.op in PER_CHANNEL

    def _gives_zero(self, node: TraceNode, inputs: Sequence[Value | None]) -> bool:
        source = node.source.rstrip('0123456789')
        silent = [edge in self.zero for edge in node.inputs if edge is not None]
        if node.op == 'batch_norm':
            data, *weights = inputs
            along_weights = data is not None and all(axes_of(f) == (1,) for f in data.factors)
            return along_weights and len(weights) == 2 and all(map(_name, weights))
        if node.op == 'reduce':
            return node.attrs['how'] in REDUCES_ZERO and all(silent)
        if node.op in MOVES:
            return all(silent)
        if source == PRODUCT:
            return any(silent)
        if source == BOUNDED:
            return all(silent) and node.attrs['low'] <= 0 <= node.attrs['high']
        constant = None in node.inputs and source in ('AddBackward', 'SubBackward')
        return node.op == 'elementwise' and source in KEEPS_ZERO and all(silent) and not constant

    def exposed_labels(self, size: int) -> np.ndarray:
        """Which labels are exposed, (size,) bool."""
        found = np.zeros(size, bool)
        for labels in self.exposed:
            found[labels] = True
        return found


def _name(value: Value | None) -> str | None:
    return None if value is None else value.parameter


def _reduces_space(node: TraceNode, inputs: Sequence[Value | None]) -> bool:
    (value,) = (v for v in inputs if v is not None)
    dims = node.attrs['dims'] or range(len(value.shape))
    reduced = {dim % len(value.shape) for dim in dims}
    return not any(reduced & set(axes_of(factor)) for factor in value.factors)
