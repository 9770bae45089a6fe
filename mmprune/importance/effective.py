"""The weights that layers use: parameters, or what a network computes from them before it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.errors import InputError
from mmprune.trace.function_mode import FunctionMode
from mmprune.trace.kinds import TRANSPOSED_CONVS
from mmprune.trace.recipes import Key, flat_tensors
from mmprune.trace.trace_graph import ComputedWeight

# Nodes of the autograd graph that give features, whatever they are given.
_LAYERS = ('Convolution', 'ThnnConv', 'SlowConv', 'MkldnnConv', 'CudnnConv', 'Embedding')
_PRODUCTS = ('Mm', 'Addmm', 'Bmm', 'Baddbmm')


class _Tensors(Mapping[str, torch.Tensor]):
    """The parameters and buffers of a model, each of which is looked up when it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __getitem__(self, name: str) -> torch.Tensor:
        *path, local = name.split('.')
        owner: nn.Module | None = self.model
        for part in path:
            owner = None if owner is None else owner._modules.get(part)
        found: torch.Tensor | None = None if owner is None else owner._parameters.get(local)
        if found is None and owner is not None:
            found = owner._buffers.get(local)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        for name, _ in self.model.named_parameters(remove_duplicate=False):
            yield name
        for name, _ in self.model.named_buffers(remove_duplicate=False):
            yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def tensors_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """All parameters and buffers by all their names, at full width."""
    return _Tensors(model)


def effective(
    member: Member, group: ChannelGroup, tensors: Mapping[str, torch.Tensor], name: str
) -> torch.Tensor | None:
    """The numbers that a layer uses for a member: of the parameter, or computed from it.

    Args:
        member: One of ``group.used``.
        group: Its group, for messages.
        tensors: See ``tensors_of``.
        name: The criterion, for messages.

    Returns:
        A tensor without a gradient, or the parameter itself; None for a buffer.

    Raises:
        InputError: It was not seen how the weight is computed.
    """
    weight = member.computed
    if weight is None:
        found = tensors.get(member.tensor)
        return found if isinstance(found, nn.Parameter) else None
    if weight.recipe is None:
        raise cannot_follow(weight, group, name)
    with torch.no_grad():
        return weight.recipe(tensors)


def cannot_follow(weight: ComputedWeight, group: ChannelGroup, name: str) -> InputError:
    """What to say where a computed weight cannot be scored."""
    return InputError(
        f"group '{group.space_id}': {name} cannot see the weight that '{weight.layer}' computes "
        f'from {", ".join(map(repr, weight.made_of))}: choose an importance that looks at '
        "activations (dict(type='ActivationImportance')), or keep its channels by "
        f'except_start_keys=[{group.space_id!r}]'
    )


class WeightWatch(FunctionMode):
    """Catches the computed weights that layers are given during a forward pass with gradients.

    A weight is recognised by the parameters that its part of the autograd graph ends in, and by
    its shape, which a subnet makes smaller.

    Args:
        weights: What to look for.
        model: The network, at full width or running as a subnet.

    Attributes:
        found: Name of a weight -> the tensors that were used, one per run of its layer.
    """

    def __init__(self, weights: Iterable[ComputedWeight], model: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, list[torch.Tensor]] = {}
        self._wanted: dict[frozenset[str], list[ComputedWeight]] = {}
        for weight in {weight.name: weight for weight in weights}.values():
            self._wanted.setdefault(frozenset(weight.made_of), []).append(weight)
        names = {name for wanted in self._wanted for name in wanted}
        parameters = model.named_parameters(remove_duplicate=False)
        self._names = {id(p): name for name, p in parameters if name in names}
        self._leaves: dict[Any, frozenset[str] | None] = {}
        self._made: dict[Key, torch.Tensor] = {}
        self._seen: set[int] = set()
        self._turns: dict[frozenset[str], int] = {}

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        made = [t for t in flat_tensors(result) if t.grad_fn is not None]
        if made and self._is_weight(made[0]):
            self._made.update({(t.grad_fn, t.output_nr): t for t in made})
        elif made:
            for tensor in flat_tensors((args, kwargs)):
                if tensor.grad_fn is not None and self._is_weight(tensor):
                    self._catch(tensor)
        return result

    def was_used(self, weight: ComputedWeight) -> bool:
        """Whether anything was computed from the parameters of a weight."""
        seen = (made_of for made_of in self._leaves.values() if made_of is not None)
        return not frozenset(weight.made_of).isdisjoint(frozenset().union(*seen))

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return self._made_of(tensor.grad_fn) is not None

    def _catch(self, tensor: torch.Tensor) -> None:
        """Note a weight that meets features, as it was before it was moved."""
        made_of = self._made_of(tensor.grad_fn)
        assert made_of is not None
        wanted = self._wanted.get(made_of, ())
        chain: list[torch.Tensor] = [tensor]
        grad_fn = tensor.grad_fn
        while grad_fn is not None and len(grad_fn.next_functions) == 1:
            before = self._made.get(grad_fn.next_functions[0])
            if before is None or before.numel() != tensor.numel():
                break
            chain.append(before)
            grad_fn = before.grad_fn
        for candidate in chain:
            fitting = [weight for weight in wanted if _may_be(candidate, weight)]
            if not fitting:
                continue
            if id(candidate) not in self._seen:
                self._seen.add(id(candidate))
                turn = self._turns.setdefault(made_of, 0)
                self._turns[made_of] += 1
                self.found.setdefault(fitting[turn % len(fitting)].name, []).append(candidate)
            return

    def _made_of(self, root: Any) -> frozenset[str] | None:
        """The parameters that a node of the graph is made of; None for features."""
        pending = [root]
        while pending:
            node = pending[-1]
            if node in self._leaves:
                pending.pop()
                continue
            parents = [parent for parent, _ in node.next_functions]
            inner = [parent for parent in parents if parent is not None]
            name = node.name()
            if name == 'torch::autograd::AccumulateGrad':
                own = self._names.get(id(node.variable))
                self._leaves[node] = None if own is None else frozenset({own})
            elif name.startswith(_LAYERS) or (
                name.startswith(_PRODUCTS) and len(inner) < len(parents)
            ):
                self._leaves[node] = None
            elif todo := [parent for parent in inner if parent not in self._leaves]:
                pending += todo
            else:
                found = [self._leaves[parent] for parent in inner]
                known = [own for own in found if own is not None]
                is_whole = bool(known) and len(known) == len(found)
                self._leaves[node] = frozenset().union(*known) if is_whole else None
        return self._leaves[root]


def _may_be(tensor: torch.Tensor, weight: ComputedWeight) -> bool:
    pairs = zip(tensor.shape, weight.shape, strict=False)
    return tensor.dim() == len(weight.shape) and all(size <= full for size, full in pairs)


def in_full(values: torch.Tensor, weight: ComputedWeight, module: nn.Module) -> torch.Tensor | None:
    """Values of a weight that a subnet has cut, at their places in the full one, zeros elsewhere.

    Args:
        values: One number for each element of the weight that was used.
        weight: What it is at full width.
        module: The layer that uses it, which knows its kept channels by its masks.

    Returns:
        A tensor of the full shape; None if the places are not known.
    """
    if tuple(values.shape) == weight.shape:
        return values
    outputs, inputs = (_kept(module, name) for name in ('out_mask', 'in_mask'))
    is_turned = isinstance(module, TRANSPOSED_CONVS)
    if is_turned:
        outputs, inputs = inputs, outputs
    rows = np.arange(weight.shape[0]) if values.shape[0] == weight.shape[0] else outputs
    if rows is None or len(rows) != values.shape[0] or values.dim() < 2:
        return None
    full = values.new_zeros(weight.shape)
    index = torch.from_numpy(rows).to(values.device)
    if values.shape[1] == weight.shape[1]:
        full[index] = values
        return full
    if inputs is None:
        return None
    blocks = 1 if is_turned else module.get_buffer('in_mask').numel() // weight.shape[1]
    columns = inputs.reshape(blocks, -1) if len(inputs) % blocks == 0 else inputs[:0, None]
    if columns.shape[-1] != values.shape[1]:
        return None
    own = columns[rows // (weight.shape[0] // blocks)] % weight.shape[1]
    full[index[:, None], torch.from_numpy(own).to(values.device)] = values
    return full


def _kept(module: nn.Module, name: str) -> np.ndarray | None:
    mask = module._buffers.get(name)
    return None if mask is None else mask.detach().flatten().cpu().numpy().nonzero()[0]
