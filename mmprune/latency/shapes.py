"""The layers that a latency table has times of: which they are, and how to make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn

from mmprune.errors import nearest
from mmprune.layers import Layer
from mmprune.schema import Range, Whole
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS

Width = Annotated[int, Range(1, 2**24)]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONV_OPTIONS = ('kernel_size', 'stride', 'padding', 'dilation', 'bias')
_CHANNELS, _FEATURES = ('in_channels', 'out_channels'), ('in_features', 'out_features')
_LAYERS: tuple[tuple[Any, ...], ...] = (
    (CONVS, _CONV_OPTIONS, _CHANNELS, 'groups', 1),
    (TRANSPOSED_CONVS, (*_CONV_OPTIONS, 'output_padding'), _CHANNELS, 'groups', 1),
    ((nn.Linear,), ('bias',), _FEATURES, '', -1),
    (BATCH_NORMS, ('affine', 'track_running_stats'), ['num_features'] * 2, '', 1),
    ((nn.GroupNorm,), ('affine',), ['num_channels'] * 2, 'num_groups', 1),
    ((nn.LayerNorm,), ('elementwise_affine',), ['normalized_shape'] * 2, '', -1),
)
"""Classes, arguments, what they call inputs, outputs and groups, and the dim of channels."""
KINDS = [kind.__name__ for kinds, *_ in _LAYERS for kind in kinds]


@dataclass(frozen=True)
class LayerShape:
    """All that the time of a layer depends on, its widths at their full size.

    Attributes:
        kind: Class of torch.nn that it is, or is derived from.
        options: Its arguments beside the widths, sorted.
        inputs: Its input channels.
        outputs: Its output channels.
        data: Shape of its input.
        channel_dim: The dim of channels in ``data``.
        groups: Groups of a convolution or a group norm; 1 for others.
    """

    kind: str
    options: tuple[tuple[str, bool | str | tuple[Whole, ...]], ...]
    inputs: Width
    outputs: Width
    data: tuple[Whole, ...]
    channel_dim: Whole
    groups: Width = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'there is no layer {self.kind!r}; {nearest(self.kind, KINDS)}')
        if self.channel_dim >= len(self.data):
            raise ValueError(f'there is no dim {self.channel_dim} of channels in {self.data}')

    @property
    def is_tied(self) -> bool:
        """Whether the outputs follow from the inputs: norms and depthwise convolutions."""
        return 'Norm' in self.kind or self.groups == self.inputs > 1

    @property
    def full_widths(self) -> tuple[int, ...]:
        """Its widths: inputs and outputs, or only the inputs if that is tied."""
        return (self.inputs,) if self.is_tied else (self.inputs, self.outputs)

    @property
    def multiple(self) -> int:
        """What its widths must be multiples of."""
        return 1 if self.groups == self.inputs else self.groups

    def build(self, widths: tuple[int, ...]) -> nn.Module:
        """Such a layer with other widths, in eval mode."""
        inputs = widths[0]
        outputs = widths[-1] if not self.is_tied else inputs * self.outputs // self.inputs
        options: dict[str, Any] = dict(self.options)
        sizes = [inputs] if 'Norm' in self.kind else [inputs, outputs]
        if self.kind == 'GroupNorm':
            sizes = [min(self.groups, inputs), inputs]
        elif 'Conv' in self.kind:
            options['groups'] = inputs if self.is_tied else self.groups
        made: nn.Module = getattr(nn, self.kind)(*sizes, **options)
        return made.eval()

    def example(self, widths: tuple[int, ...]) -> torch.Tensor:
        """An input of such a layer: uniform noise."""
        shape = list(self.data)
        shape[self.channel_dim] = widths[0]
        return torch.rand(shape)

    def __str__(self) -> str:
        options: dict[str, Any] = dict(self.options)
        kernel = 'x'.join(map(str, options.get('kernel_size', ())))
        stride = options.get('stride', (1,))[0]
        words = [self.kind, kernel, f'stride {stride}' if stride != 1 else '']
        words += [f'{self.groups} groups' if self.groups > 1 else '']
        data = 'x'.join(map(str, self.data))
        widths = f'{self.inputs}' if self.is_tied else f'{self.inputs} to {self.outputs}'
        return ' '.join([*filter(None, words), widths, f'on {data}'])


def shape_of(module: nn.Module, data: tuple[int, ...]) -> LayerShape | None:
    """The shape of a layer that gets such an input; None if it is of no known type."""
    for kinds, arguments, widths, groups, channel_dim in _LAYERS:
        kind = next((kind for kind in kinds if isinstance(module, kind)), None)
        if kind is None:
            continue
        own = [getattr(module, name) for name in widths]
        if kind is nn.LayerNorm:
            if len(own[0]) > 1:
                return None
            own = [*own[0], *own[1]]
        found = {name: getattr(module, name) for name in arguments}
        options = {
            name: value if isinstance(value, bool | str | tuple) else value is not None
            for name, value in sorted(found.items())
        }
        number = getattr(module, groups) if groups else 1
        dim = channel_dim % len(data)
        return LayerShape(kind.__name__, tuple(options.items()), own[0], own[1], data, dim, number)
    return None


def layer_calls(
    network: nn.Module, layers: Mapping[str, Layer], run: Callable[[nn.Module], Any]
) -> list[tuple[str, LayerShape]]:
    """Layers with widths that a forward pass calls, in order, one entry per call.

    Args:
        network: A plain network at full width.
        layers: Its layers by name, with their labels.
        run: Runs it on its demo input.
    """
    calls: list[tuple[str, LayerShape]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) == 1 and isinstance(args[0], torch.Tensor):
                shape = shape_of(module, tuple(args[0].shape))
                if shape is not None and shape.data[shape.channel_dim] == shape.inputs:
                    calls.append((name, shape))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in network.named_modules():
            if name in layers and layers[name].outputs is not None:
                stack.enter_context(module.register_forward_pre_hook(note(name)))
        run(network)
    return calls
