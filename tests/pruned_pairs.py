"""Networks whose removed channels say what the kept ones say, and what is left of them."""

from functools import partial

import torch
from torch import nn

from mmprune.registry import PRUNERS


def prepared(network, demo_input, **options):
    """A pruner with half of every group's channels set, random ones."""
    importance = dict(type='RandomImportance', seed=1)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5], importance=importance, **options))
    pruner.prepare_from_supernet(network, demo_input=demo_input)
    pruner.set_min_channel()
    return pruner


@torch.no_grad()
def mix(layer, kept, groups=1, constants=False):
    """Make what a layer gives in channels that are not kept a mixture of those that are.

    Args:
        layer: With a weight that has its outputs first.
        kept: (outputs,) bool.
        groups: Channels are mixed within blocks of their own.
        constants: Add a constant of its own to each, which only a bias can make up for.
    """
    kept = kept.flatten().bool()
    for block in torch.arange(len(kept)).chunk(groups):
        stay, go = block[kept[block]], block[~kept[block]]
        mixture = torch.randn(len(go), len(stay), dtype=layer.weight.dtype)
        layer.weight[go] = torch.einsum('gs,s...->g...', mixture, layer.weight[stay])
        if layer.bias is not None:
            own = torch.randn(len(go)).double() if constants else 0
            layer.bias[go] = mixture @ layer.bias[stay] + own


class Pair(nn.Module):
    """A layer, and one that reads it and keeps all that it gives."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x))


# Name -> (first layer, second layer, shape of an image).
PAIRS = {
    'linear on vectors': (partial(nn.Linear, 9, 8), partial(nn.Linear, 8, 5), (9,)),
    'linear on tokens': (partial(nn.Linear, 9, 8), partial(nn.Linear, 8, 5), (7, 9)),
    'linear without bias': (
        partial(nn.Linear, 9, 8, bias=False),
        partial(nn.Linear, 8, 5, bias=False),
        (9,),
    ),
    'conv1d': (partial(nn.Conv1d, 5, 8, 3), partial(nn.Conv1d, 8, 4, 3, 2, padding=1), (5, 12)),
    'conv2d': (partial(nn.Conv2d, 5, 8, 3), partial(nn.Conv2d, 8, 4, (2, 3), (2, 1)), (5, 9, 8)),
    'conv3d': (partial(nn.Conv3d, 9, 6, 3), partial(nn.Conv3d, 6, 4, 2), (9, 5, 4, 6)),
    'dilated': (
        partial(nn.Conv2d, 5, 8, 3),
        partial(nn.Conv2d, 8, 4, 3, dilation=(1, 2), padding='same'),
        (5, 9, 8),
    ),
    'reflected': (
        partial(nn.Conv2d, 5, 8, 3, bias=False),
        partial(nn.Conv2d, 8, 4, 3, padding=2, padding_mode='reflect'),
        (5, 9, 8),
    ),
    'grouped': (
        partial(nn.Conv2d, 5, 12, 3),
        partial(nn.Conv2d, 12, 6, 3, groups=3),
        (5, 9, 8),
    ),
    'transposed': (
        partial(nn.Conv2d, 5, 8, 3),
        partial(nn.ConvTranspose2d, 8, 4, 3, (2, 1), padding=1, output_padding=(1, 0)),
        (5, 7, 6),
    ),
    'transposed, dilated': (
        partial(nn.Conv1d, 5, 8, 3),
        partial(nn.ConvTranspose1d, 8, 4, 3, 2, dilation=2, bias=False),
        (5, 9),
    ),
    'transposed, grouped': (
        partial(nn.Conv3d, 5, 12, 2, bias=False),
        partial(nn.ConvTranspose3d, 12, 6, 2, groups=3),
        (5, 4, 5, 4),
    ),
}
