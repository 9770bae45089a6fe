"""Importance of channels by the activations that the next layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.importance.base import owner_of
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction, key_of
from mmprune.registry import IMPORTANCE
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS, channel_dim


@dataclass
class Reader:
    """A layer that reads a group's channels, and what was seen of them in a batch.

    Attributes:
        space_id: The group.
        module: A convolution or linear layer.
        channel: Channel number at each of its input channels, -1 for other groups', (in,).
        num_channels: C.
        total: Number of elements, and the sums over them of what was measured, (C, 1 + measured)
            float64; None if the layer has not run.
    """

    space_id: str
    module: Any
    channel: torch.Tensor
    num_channels: int
    total: torch.Tensor | None = None

    @property
    def dim(self) -> int:
        """Where an input of the layer has its channels: (N, in, ...), or (..., in) if linear."""
        return channel_dim(self.module)

    def places(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the channels of the group are that the subnet has, and which they are.

        Args:
            size: Channels of an input: all of them, or those that the subnet has.

        Returns:
            Positions among the ``size``, and channel numbers.
        """
        mask = getattr(self.module, 'in_mask', None)
        kept = torch.arange(len(self.channel))
        if mask is not None:
            kept = kept[mask.detach().cpu().flatten() != 0]
        channel = self.channel[kept]
        positions = kept if size == len(self.channel) else torch.arange(size)
        return positions[channel >= 0], channel[channel >= 0]

    def see(self, data: torch.Tensor, measured: Sequence[torch.Tensor]) -> None:
        """Add the elements of one input of the layer.

        Args:
            data: The input; N may be missing.
            measured: What its elements count, each of its shape.
        """
        positions, channel = self.places(data.shape[self.dim])
        rows = [each.double().movedim(self.dim, 0).flatten(1).cpu() for each in measured]
        sums = [torch.full((data.shape[self.dim],), float(rows[0].shape[1]), dtype=torch.float64)]
        sums += [each.sum(1) for each in rows]
        if self.total is None:
            self.total = torch.zeros(self.num_channels, len(sums), dtype=torch.float64)
        self.total.index_add_(0, channel, torch.stack(sums, dim=1)[positions])


def input_channels(member: Member, module: nn.Module) -> np.ndarray | None:
    """Channel number at each input channel of a layer, read off its weight's member.

    Returns:
        (in,), -1 for channels of other groups; None if the module is of another type or the
        member is that of its outputs.
    """
    local = member.tensor.rpartition('.')[2].partition('#')[0]
    if local != 'weight' or not isinstance(module, (*CONVS, *TRANSPOSED_CONVS, nn.Linear)):
        return None
    if isinstance(module, nn.Linear):
        return member.index if member.dims == (1,) else None
    if isinstance(module, TRANSPOSED_CONVS):
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

    def measure(self, data: torch.Tensor) -> Sequence[torch.Tensor]:
        """What each element counts: tensors of the input's shape."""
        raise NotImplementedError

    def of_batch(self, total: torch.Tensor) -> torch.Tensor:
        """What is kept of a batch, (C, ...), of the numbers of elements and sums over them."""
        return total[:, 1] / total[:, 0].clamp(min=1)

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """The mean over the batch, by reading layer and channel."""
        found = dict(readers(model, groups))
        with hooked(found.values(), self._see), torch.no_grad():
            loss_fn(model, batch)
        return {
            key: self.of_batch(reader.total)
            for key, reader in found.items()
            if reader.total is not None
        }

    def _see(self, reader: Reader, data: torch.Tensor) -> None:
        reader.see(data, self.measure(data.detach()))


@contextmanager
def hooked(
    readers: Iterable[Reader], see: Callable[[Reader, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Context in which ``see(reader, input)`` is called before a reader runs.

    What it returns is read in the place of the input.
    """
    with ExitStack() as stack:
        for reader in readers:

            def hook(module: nn.Module, inputs: Any, reader: Reader = reader) -> Any:
                read = see(reader, inputs[0])
                return None if read is None else (read, *inputs[1:])

            stack.enter_context(reader.module.register_forward_pre_hook(hook))
        yield


def readers(model: nn.Module, groups: Groups) -> Iterator[tuple[Key, Reader]]:
    """The convolutions and linear layers that read the channels of groups."""
    for group in groups.values():
        for member in group.used:
            channel = _read_by(member, group, model)
            if channel is not None:
                owner, number = owner_of(member, model), torch.from_numpy(channel.copy())
                yield (
                    key_of(group, member),
                    Reader(group.space_id, owner, number, group.num_channels),
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

    def measure(self, data: torch.Tensor) -> Sequence[torch.Tensor]:  # noqa: D102
        return (data.abs(),)


@IMPORTANCE.register_module()
class APoZImportance(_ActivationImportance):
    """Share of a channel's activations that are not zero: 1 - APoZ.

    Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards
    Efficient Deep Architectures", 2016, section 3. Measured at the inputs of the
    convolutions and linear layers that read the channel, each a member.

    Args:
        **kwargs: See ``Importance``.
    """

    def measure(self, data: torch.Tensor) -> Sequence[torch.Tensor]:  # noqa: D102
        return ((data != 0).to(data),)


@IMPORTANCE.register_module()
class VarianceImportance(_ActivationImportance):
    """Variance of a channel's activations, over positions and all images of all batches.

    Berisha, Mende, Kreis, "Variance-Based Pruning for Accelerating and Compressing Trained
    Networks", 2025: what hardly varies can be replaced by its mean, as the compensation
    ``MeanFolding`` does. Measured at the inputs of the convolutions and linear layers that
    read the channel, each a member.

    Args:
        **kwargs: See ``Importance``.
    """

    def measure(self, data: torch.Tensor) -> Sequence[torch.Tensor]:  # noqa: D102
        data = data.double()
        return data, data.square()

    def of_batch(self, total: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return total

    def over_batches(self, total: torch.Tensor) -> torch.Tensor:  # noqa: D102
        count, values, squares = total.unbind(1)
        count = count.clamp(min=1)
        return (squares / count - (values / count).square()).clamp(min=0)
