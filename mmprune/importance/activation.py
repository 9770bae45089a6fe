"""Importance of channels by the activations that the next layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.importance.base import TRANSPOSED, owner_of
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction, key_of
from mmprune.registry import IMPORTANCE

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class _Reader:
    """A layer that reads a group's channels, and what was seen of them in a batch.

    Attributes:
        module: A convolution or linear layer.
        channel: Channel number at each of its input channels, -1 for other groups', (in,).
        total: Sum over elements, (C,) float64.
        count: Number of elements, (C,) float64.
    """

    module: Any
    channel: torch.Tensor
    total: torch.Tensor
    count: torch.Tensor

    def see(self, data: torch.Tensor, measure: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add the elements of one input of the layer.

        Args:
            data: (N, in, ...) for a convolution (N may be missing), (..., in) for a linear layer.
            measure: What each element counts.
        """
        dim = -1 if isinstance(self.module, nn.Linear) else -1 - len(self.module.kernel_size)
        rows = measure(data.detach()).double().movedim(dim, 0).flatten(1).cpu()
        channel = self.channel
        mask = getattr(self.module, 'in_mask', None)
        kept = torch.ones(len(channel), dtype=torch.bool)
        if mask is not None:
            kept = mask.detach().cpu().flatten() != 0
        if len(rows) == len(channel):
            rows = rows[kept]
        channel = channel[kept]
        mine = channel >= 0
        self.total.index_add_(0, channel[mine], rows.sum(1)[mine])
        size = torch.full((int(mine.sum()),), float(rows.shape[1]), dtype=torch.float64)
        self.count.index_add_(0, channel[mine], size)


def input_channels(member: Member, module: nn.Module) -> np.ndarray | None:
    """Channel number at each input channel of a layer, read off its weight's member.

    Returns:
        (in,), -1 for channels of other groups; None if the module is of another type or the
        member is that of its outputs.
    """
    local = member.tensor.rpartition('.')[2].partition('#')[0]
    if local != 'weight' or not isinstance(module, (*CONVS, *TRANSPOSED, nn.Linear)):
        return None
    if isinstance(module, nn.Linear):
        return member.index if member.dims == (1,) else None
    if isinstance(module, TRANSPOSED):
        return member.index if member.dims == (0,) else None
    # A supernet's modules have the numbers of their subnet; masks and weights are of full width.
    shape = module.weight.shape if member.computed is None else member.computed.shape
    mask = module._buffers.get('in_mask')
    groups = (module.in_channels if mask is None else mask.numel()) // shape[1]
    each = shape[0] // groups
    if member.dims == (1,) and groups == 1:
        return member.index
    if member.dims == (0, 1):  # output, input within the group
        return member.index[::each].ravel()
    if member.dims == (0,) and shape[1] == 1:  # depthwise
        return member.index[::each]
    return None


class _ActivationImportance(DataImportance):
    """A mean over the inputs of the layers that read a channel, behind norm and activation."""

    def measure(self, data: torch.Tensor) -> torch.Tensor:
        """What one element counts."""
        raise NotImplementedError

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """The mean over the batch, by reading layer and channel."""
        readers = dict(_readers(model, groups))
        with self._watching(list(readers.values())), torch.no_grad():
            loss_fn(model, batch)
        return {
            key: reader.total / reader.count.clamp(min=1)
            for key, reader in readers.items()
            if reader.count.any()
        }

    @contextmanager
    def _watching(self, readers: list[_Reader]) -> Iterator[None]:
        with ExitStack() as stack:
            for reader in readers:

                def hook(module: nn.Module, inputs: Any, reader: _Reader = reader) -> None:
                    reader.see(inputs[0], self.measure)

                handle = reader.module.register_forward_pre_hook(hook)
                stack.callback(handle.remove)
            yield


def _readers(model: nn.Module, groups: Groups) -> Iterator[tuple[Key, _Reader]]:
    for group in groups.values():
        for member in group.used:
            channel = _read_by(member, group, model)
            if channel is not None:
                total = torch.zeros(group.num_channels, dtype=torch.float64)
                yield (
                    key_of(group, member),
                    _Reader(
                        owner_of(member, model), torch.from_numpy(channel.copy()), total, 0 * total
                    ),
                )


def _read_by(member: Member, group: ChannelGroup, model: nn.Module) -> np.ndarray | None:
    """The input channels of a member that reads the group."""
    owner = member.tensor.rpartition('.')[0]
    return input_channels(member, owner_of(member, model)) if owner in group.consumers else None


@IMPORTANCE.register_module()
class ActivationImportance(_ActivationImportance):
    """Mean magnitude of a channel's activations.

    The criterion "Activation" of Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional
    Neural Networks for Resource Efficient Inference", 2017, section 2.2. Measured at the
    inputs of the convolutions and linear layers that read the channel, each a member.

    Args:
        **kwargs: See ``Importance``.
    """

    def measure(self, data: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return data.abs()


@IMPORTANCE.register_module()
class APoZImportance(_ActivationImportance):
    """Share of a channel's activations that are not zero: 1 - APoZ.

    Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards
    Efficient Deep Architectures", 2016, section 3. Measured at the inputs of the
    convolutions and linear layers that read the channel, each a member.

    Args:
        **kwargs: See ``Importance``.
    """

    def measure(self, data: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return (data != 0).to(data)
