"""What removed channels still pass on once their scales are zero: constants, put into biases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.deploy import deploy
from mmprune.deploy.channel_cfg import ChannelCfg
from mmprune.errors import by_reason
from mmprune.formats.cfg_codec import write_cfg
from mmprune.layers import Layer
from mmprune.supernet.supernet import Supernet
from mmprune.trace.kinds import CONVS, NORMS
from mmprune.trace.roads import Road, on_other_numbers

LISTED = 4
"""How many layers a message lists before it only counts."""


@dataclass(frozen=True)
class Folding:
    """Numbers to add to tensors of a network, so that it can do without some channels.

    Attributes:
        offsets: Name of a bias or running mean -> what is added, of the tensor's full size.
        layers: Layers that read removed channels and need them no more -> how many channels.
        left: Layers that read removed channels whose constants stay out -> why.
    """

    offsets: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def apply(self, model: nn.Module, sign: int = 1) -> None:
        """Add the offsets to a network's tensors; with -1, take them back."""
        for name, offset in self.offsets.items():
            owner, _, local = name.rpartition('.')
            getattr(model.get_submodule(owner), local).add_(sign * offset)

    def __str__(self) -> str:
        noun = 'layer' if len(self.layers) == 1 else 'layers'
        lines = [f'shifts of removed channels folded into {len(self.layers)} {noun}']
        lines += [f'not folded: {line}' for line in by_reason(self.left, LISTED)]
        return '\n'.join(lines)


def find_folding(supernet: Supernet) -> Folding:
    """What the removed channels of the subnet that is set pass on to the layers that read them.

    In a plain copy of the full network the scales of the removed channels are set to zero. What
    a layer reads of them is a constant then: the activation of the shift, or a sum of
    such in a residual. It is measured on two inputs, and folded where it is the same
    everywhere: a layer that pads with zeros sees another number at the border, and a gate makes it
    depend on the input. So folding is exact as far as the removed scales are zero. The network
    stays as it is; see ``Folding.apply``.
    """
    folding = Folding()
    readers = dict(_readers(supernet, folding.left))
    road = supernet.road_book.roads[0]
    other = on_other_numbers(road)
    if not readers or other is None:
        why = 'the demo input is a callable, so that no second input can be tried'
        folding.left.update(dict.fromkeys(readers, why))
        return folding
    plain = deploy(supernet.model, ChannelCfg(write_cfg(supernet, np.ones(supernet.size, bool))))
    plain.eval()
    _zero_scales(plain, supernet)
    seen = _observe(plain, list(readers), [road, other])
    for name, removed in readers.items():
        if name not in seen:
            folding.left[name] = 'is not called as a module'
            continue
        low, high = seen[name]
        constant = _is_constant(low, high) & torch.from_numpy(removed).to(low.device)
        if int(constant.sum()) < int(removed.sum()):
            folding.left[name] = (
                'some removed channels pass on more than a constant, without their scales too'
            )
        if not constant.any():
            continue
        target = _target(supernet, name)
        if target is None:
            folding.left[name] = 'has no bias of its own, and no batch norm right behind it'
            continue
        tensor, sign = target
        values = torch.where(constant, (low + high) / 2, torch.zeros_like(low))
        offset = _response(plain.get_submodule(name), values)
        folding.offsets[tensor] = folding.offsets.get(tensor, 0) + sign * offset
        folding.layers[name] = int(constant.sum())
    return folding


def _readers(supernet: Supernet, left: dict[str, str]) -> Iterator[tuple[str, BoolArray]]:
    """Layers that read removed channels and could do with a bias instead; (name, which inputs)."""
    for name, layer in supernet.layers.items():
        if layer.inputs is None or layer.outputs is None:
            continue
        removed = ~kept(supernet.alive, layer.inputs)
        if not removed.any() or not kept(supernet.alive, layer.outputs).any():
            continue
        module = supernet.model.get_submodule(name)
        if not isinstance(module, (*CONVS, nn.Linear)) or layer.is_computed:
            left[name] = f'is a {type(module).__name__}'
        elif _is_depthwise(layer, layer.inputs, layer.outputs):
            continue  # its removed inputs make nothing but removed outputs
        elif _pads_with_zeros(module):
            left[name] = 'pads with zeros'
        else:
            yield name, removed


def _is_depthwise(layer: Layer, inputs: IntArray, outputs: IntArray) -> bool:
    """Whether every output is made of one input, and both are one decision."""
    weight = layer.tensors.get('weight', ())
    own = bool(np.isin(inputs, outputs).all())
    return own and all(factor.shape[1] == 1 for factor in weight)


def _pads_with_zeros(module: Any) -> bool:
    if isinstance(module, nn.Linear) or module.padding_mode != 'zeros':
        return False
    if module.padding == 'same':
        return any(size > 1 for size in module.kernel_size)
    return module.padding != 'valid' and any(module.padding)


@torch.no_grad()
def _zero_scales(plain: nn.Module, supernet: Supernet) -> None:
    """Set the scales of removed channels to zero, in all norms that they go through."""
    for group in supernet.prunable_groups.values():
        removed = ~supernet.alive[group.labels]
        for member in group.members:
            owner, _, local = member.tensor.rpartition('.')
            module = plain.get_submodule(owner)
            if local == 'weight' and isinstance(module, NORMS) and len(member.dims) == 1:
                gone = (member.index >= 0) & removed[member.index]
                module.get_parameter(local)[torch.from_numpy(gone)] = 0


@torch.no_grad()
def _observe(
    plain: nn.Module, names: list[str], inputs: list[Road]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Lowest and highest value of every channel that a layer reads, over all calls, (C,) each."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def look(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            value = args[0]
            dim = value.dim() - 1
            if not isinstance(module, nn.Linear):
                dim -= len(module.kernel_size)  # type: ignore[arg-type]
            flat = value.movedim(dim, 0).flatten(1)
            low, high = flat.amin(1), flat.amax(1)
            if name in seen:
                low, high = low.minimum(seen[name][0]), high.maximum(seen[name][1])
            seen[name] = low, high

        return look

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(plain.get_submodule(name).register_forward_pre_hook(watch(name)))
        for road in inputs:
            road.run(plain)
    return seen


def _is_constant(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Where two values are the same but for rounding, (C,) bool."""
    return high - low <= 64 * torch.finfo(low.dtype).eps * low.abs().clamp(min=1)


@torch.no_grad()
def _response(module: Any, values: torch.Tensor) -> torch.Tensor:
    """What a layer makes of a constant per input channel, without its bias, (outputs,)."""
    if isinstance(module, nn.Linear):
        return nn.functional.linear(values, module.weight)
    kernel = module.weight[0, 0].numel()
    sums = module.weight.flatten(2).sum(2) if kernel > 1 else module.weight.flatten(1)
    by_group = values.reshape(module.groups, 1, -1)  # (groups, 1, inputs of one group)
    rows = sums.reshape(module.groups, -1, by_group.shape[2])
    return (rows * by_group).sum(2).flatten()


def _target(supernet: Supernet, name: str) -> tuple[str, int] | None:
    """The tensor that an offset of a layer's outputs goes to, and its sign; None if there is none.

    A running mean is subtracted, so what is missing before the norm is taken off it.
    """
    module = supernet.model.get_submodule(name)
    if isinstance(module.bias, nn.Parameter):
        uses = [
            other
            for other, parameter in supernet.model.named_parameters(remove_duplicate=False)
            if parameter is module.bias
        ]
        return (f'{name}.bias', 1) if len(uses) == 1 else None
    nodes = supernet.graph.nodes
    own = {node.id for node in nodes if node.module == name and node.op != 'parameter'}
    readers = [
        (node, place)
        for node in nodes
        if node.id not in own
        for place, edge in enumerate(node.inputs)
        if edge is not None and edge[0] in own
    ]
    leaves = any(edge[0] in own for edge in supernet.graph.outputs)
    if leaves or len(readers) != 1 or readers[0][0].op != 'batch_norm' or readers[0][1] != 0:
        return None
    norm = supernet.model.get_submodule(readers[0][0].module)
    is_batch_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if not is_batch_norm or norm.running_mean is None:
        return None
    return f'{readers[0][0].module}.running_mean', -1
