"""What a plan touches, and why: the way from one layer to another through the traced graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.layers import Layer
from mmprune.layers.layer import TRANSPOSED_CONVS
from mmprune.supernet.supernet import Supernet
from mmprune.trace import TraceNode

JOINS_NOTHING = frozenset({'cat', 'stack', 'copy_slices'})
"""Operations whose inputs lie side by side: the channels of one are not those of another."""


@dataclass(frozen=True)
class _Way:
    """How a node was reached: from which layer, over which operation that joins, and whence.

    Attributes:
        layer: The last layer on the way.
        joint: The operation since then in which the channels of two inputs meet; '' if none.
        is_down: Whether the last step was from a producer to a consumer.
    """

    layer: str
    joint: str = ''
    is_down: bool = True


def connections(supernet: Supernet, start: str, labels: IntArray) -> dict[tuple[str, str], str]:
    """Why every layer is touched when channels of one go.

    Args:
        supernet: The prepared network.
        start: The layer that the channels are named by.
        labels: The labels that go.

    Returns:
        (layer, role) -> reason, of every layer that the channels reach; the role is ``'out'``
        (it makes them), ``'norm'`` or ``'in'`` (it reads them). Parameters that are used without a
        layer are there by their own names, with the role ``'tensor'``.
    """
    graph = supernet.graph
    going = np.zeros(supernet.size, bool)
    going[labels] = True
    sites = _sites(supernet, going)
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for reader in graph.nodes:
        for edge in reader.inputs:
            if edge is not None:
                readers[edge[0]].append(reader.id)
    reasons: dict[tuple[str, str], str] = {}
    pending = deque((node, _Way(start)) for node, roles in sites.items() if start in roles.values())
    seen = {node for node, _ in pending}
    while pending:
        node, way = pending.popleft()
        roles = sites.get(node, {})
        if node in sites and not roles:
            continue  # a layer that has other channels
        for role, layer in roles.items():
            if layer != start:
                reasons.setdefault((layer, role), _reason(role, way))
        for layer in roles.values():
            way = _Way(layer, '', way.is_down)
        operation = graph.nodes[node]
        passes = _passes(operation, roles)
        steps = []
        if passes != 'in':
            steps += [(after, True, way) for after in readers[node]]
        if passes != 'out':
            joint = way.joint
            if way.is_down and operation.op not in JOINS_NOTHING and node not in sites:
                joint = operation.where
            for edge in operation.inputs:
                if edge is not None and graph.nodes[edge[0]].op == 'parameter':
                    name = graph.nodes[edge[0]].attrs['name']
                    reasons.setdefault((name, 'tensor'), f'meets them at {operation.where}')
            joined = _Way(way.layer, joint, False)
            steps += [(e[0], False, joined) for e in operation.inputs if e is not None]
        for after, is_down, now in steps:
            if after not in seen:
                seen.add(after)
                pending.append((after, _Way(now.layer, now.joint, is_down)))
    return reasons


def _sites(supernet: Supernet, going: BoolArray) -> dict[int, dict[str, str]]:
    """Node -> role -> layer, of the operations that make, normalise or read the channels."""
    found: dict[int, dict[str, str]] = {}
    for site in supernet.labelling.sites:
        labels = site.labels[site.labels >= 0]
        own = found.setdefault(site.node, {})
        if going[labels].any():
            own[site.role] = site.layer
    return found


def _passes(operation: TraceNode, roles: dict[str, str]) -> str:
    """On which sides of an operation the channels are: ``'in'``, ``'out'`` or ``'both'``."""
    if operation.op == 'parameter':
        return 'out'
    if 'norm' in roles or ('in' in roles and 'out' in roles):
        return 'both'
    if roles:
        return 'in' if 'in' in roles else 'out'
    return 'both'


def _reason(role: str, way: _Way) -> str:
    if way.is_down:
        return f'{"normalises" if role == "norm" else "reads"} {way.layer}'
    return f'meets {way.layer} at {way.joint}' if way.joint else f'makes what {way.layer} reads'


@dataclass(frozen=True)
class Touch:
    """Dims of one tensor that lose positions.

    Attributes:
        tensor: Dotted name of the parameter or buffer.
        dims: The dims; two for a grouped convolution's inputs.
        removed: The positions that go, in the full tensor's numbering, of those dims flattened.
        before: How many positions there are now.
        why: What the layer has to do with the chosen channels.
    """

    tensor: str
    dims: tuple[int, ...]
    removed: tuple[int, ...]
    before: int
    why: str

    def __str__(self) -> str:
        dims = ','.join(map(str, self.dims))
        after = self.before - len(self.removed)
        return f'{self.tensor} dim {dims}: {self.before} -> {after}, {self.why}'


def touches_of(
    supernet: Supernet,
    alive: BoolArray,
    reasons: dict[tuple[str, str], str],
) -> Iterator[Touch]:
    """Every dim of every tensor that loses positions, in the order of the layers.

    Args:
        supernet: The prepared network.
        alive: The labels that are left, (num_labels,) bool.
        reasons: See ``connections``.
    """
    modules = dict(supernet.model.named_modules())
    for name, layer in supernet.layers.items():
        for local, factors in layer.tensors.items():
            for factor in factors:
                now = kept(supernet.alive, factor).ravel()
                removed = np.flatnonzero(now & ~kept(alive, factor).ravel())
                if not len(removed):
                    continue
                dims = tuple(dim for dim, size in enumerate(factor.shape) if size > 1)
                role = _role(modules[name], layer, local, dims)
                yield Touch(
                    tensor=f'{name}.{local}' if name else local,
                    dims=dims,
                    removed=tuple(removed.tolist()),
                    before=int(now.sum()),
                    why=_why(supernet, reasons, name, local, role, factor.ravel()[removed]),
                )


def _role(module: nn.Module, layer: Layer, local: str, dims: tuple[int, ...]) -> str:
    if layer.inputs is None:
        return 'norm' if layer.outputs is not None else ''
    if local == 'weight' and dims != ((1,) if isinstance(module, TRANSPOSED_CONVS) else (0,)):
        return 'in'
    return 'out'


def _why(
    supernet: Supernet,
    reasons: dict[tuple[str, str], str],
    name: str,
    local: str,
    role: str,
    labels: IntArray,
) -> str:
    roles = [role, 'norm', 'out', 'in'] if role else ['out', 'norm', 'in']
    for key in roles:
        if (name, key) in reasons:
            return reasons[name, key]
    tensor = f'{name}.{local}' if name else local
    if (tensor, 'tensor') in reasons:
        return reasons[tensor, 'tensor']
    group = next((g for g in supernet.groups.values() if int(labels[0]) in g.labels), None)
    if group is not None and group.constraints and name not in group.layers:
        return f'goes with them: {group.constraints[0].reason}'
    if group is not None and group.arrangement is not None and name not in group.layers:
        return f'goes with them: {group.arrangement.reason}'
    return f"has the channels of group '{group.space_id if group else '?'}'"
