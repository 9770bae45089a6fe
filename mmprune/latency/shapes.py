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
_OTHERS = (nn.Linear, nn.GroupNorm, nn.LayerNorm)
KINDS = [kind.__name__ for kind in (*CONVS, *TRANSPOSED_CONVS, *BATCH_NORMS, *_OTHERS)]
CONV_OPTIONS = ('kernel_size', 'stride', 'padding', 'dilation')


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
        module: nn.Module
        if self.kind == 'Linear':
            module = nn.Linear(inputs, outputs, **options)
        elif self.kind == 'LayerNorm':
            module = nn.LayerNorm(inputs, **options)
        elif self.kind == 'GroupNorm':
            module = nn.GroupNorm(min(self.groups, inputs), inputs, **options)
        elif 'Norm' in self.kind:
            module = getattr(nn, self.kind)(inputs, **options)
        else:
            groups = inputs if self.is_tied else self.groups
            module = getattr(nn, self.kind)(inputs, outputs, groups=groups, **options)
        return module.eval()

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
    known: Any = module
    for kind in (*CONVS, *TRANSPOSED_CONVS):
        if isinstance(module, kind):
            options = {name: getattr(known, name) for name in CONV_OPTIONS}
            options['bias'] = known.bias is not None
            if kind in TRANSPOSED_CONVS:
                options['output_padding'] = known.output_padding
            return _shape(
                kind, options, known.in_channels, known.out_channels, data, 1, known.groups
            )
    if isinstance(module, nn.Linear):
        options = {'bias': known.bias is not None}
        last = len(data) - 1
        return _shape(nn.Linear, options, known.in_features, known.out_features, data, last)
    for norm in BATCH_NORMS:
        if isinstance(module, norm):
            options = {
                'affine': bool(known.affine),
                'track_running_stats': bool(known.track_running_stats),
            }
            return _shape(norm, options, known.num_features, known.num_features, data, 1)
    if isinstance(module, nn.GroupNorm):
        options = {'affine': bool(known.affine)}
        channels = known.num_channels
        return _shape(nn.GroupNorm, options, channels, channels, data, 1, known.num_groups)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        options = {'elementwise_affine': bool(known.elementwise_affine)}
        channels, last = module.normalized_shape[0], len(data) - 1
        return _shape(nn.LayerNorm, options, channels, channels, data, last)
    return None


def _shape(
    kind: type[nn.Module],
    options: Mapping[str, Any],
    inputs: int,
    outputs: int,
    data: tuple[int, ...],
    channel_dim: int,
    groups: int = 1,
) -> LayerShape:
    listed = tuple(sorted(options.items()))
    return LayerShape(kind.__name__, listed, inputs, outputs, data, channel_dim, groups)


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
