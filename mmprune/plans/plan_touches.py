"""What a plan touches: the dims of tensors that lose positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.layers import Layer
from mmprune.layers.layer import TRANSPOSED_CONVS
from mmprune.supernet.supernet import Supernet


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
