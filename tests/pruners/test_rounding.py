"""``round_to`` is about what layers have, not about groups."""

import pytest
import torch
from randomised import randomise
from torch import nn

from mmprune.pruners.rounding import is_rounded
from mmprune.registry import PRUNERS


class SplitInTwo(nn.Module):
    """One half of the channels goes through a layer of its own, as in YOLO's C2f."""

    def __init__(self, width=32):
        super().__init__()
        half = width // 2
        self.a, self.inner = nn.Conv2d(3, width, 1), nn.Conv2d(half, half, 3, padding=1)
        self.b, self.head = nn.Conv2d(3 * half, width, 1), nn.Conv2d(width, 3, 1)

    def forward(self, x):
        parts = list(self.a(x).chunk(2, 1))
        parts.append(self.inner(parts[-1]))
        return self.head(self.b(torch.cat(parts, 1)))


class Heads(nn.Module):
    """Attention whose heads are eight wide."""

    def __init__(self, heads=6):
        super().__init__()
        self.a, self.attention = nn.Conv2d(3, 8 * heads, 1), nn.MultiheadAttention(8 * heads, heads)
        self.head = nn.Linear(8 * heads, 3)

    def forward(self, x):
        x = self.a(x).flatten(2).permute(2, 0, 1)
        return self.head(x + self.attention(x, x, x)[0])


class ToVector(nn.Module):
    """Each channel is nine inputs of a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 1), nn.Linear(32 * 81, 4)

    def forward(self, x):
        return self.b(self.a(x).flatten(1))


IMAGE = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def deployed(network, ratio, **options):
    torch.manual_seed(0)
    model = randomise(network.double()).eval()
    settings = dict(type='RatioPruner', ratios=[ratio], importance=dict(type='L1Importance'))
    pruner = PRUNERS.build(settings | options)
    pruner.prepare_from_supernet(model, IMAGE)
    pruner.set_min_channel()
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok
    return pruner.deploy_subnet(model, pruner.export_subnet()), pruner


def widths(model):
    """Inputs and outputs of all convolutions and linear layers, by name."""
    return {
        name: tuple(reversed(module.weight.shape[:2]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


@pytest.mark.parametrize('ratio', [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize('network', [SplitInTwo, Heads, ToVector])
def test_every_layer_has_a_multiple_or_all(network, ratio):
    full = widths(network())
    small, pruner = deployed(network(), ratio, round_to=8)
    for name, sizes in widths(small).items():
        for size, before in zip(sizes, full[name], strict=True):
            assert size % 8 == 0 or size == before, (name, size)
    for space_id, mask in pruner.current_subnet().items():
        kept = mask.flatten().bool().numpy()
        assert is_rounded(pruner.channel_groups[space_id], kept, 8)


def test_halves_are_as_near_as_they_can_be():
    assert widths(deployed(SplitInTwo(), 0.3, round_to=8)[0]) == {
        'a': (3, 16), 'inner': (8, 8), 'b': (24, 8), 'head': (8, 3)
    }  # fmt: skip
    assert widths(deployed(SplitInTwo(), 0.7, round_to=8)[0])['inner'] == (8, 8)
    assert widths(deployed(SplitInTwo(), 0.8, round_to=8)[0])['inner'] == (16, 16)


def test_heads_count_by_their_width():
    """A half of six heads is three: their 24 channels are a multiple of eight."""
    small, _ = deployed(Heads(), 0.5, round_to=8)
    assert small.attention.num_heads == 3
    assert small.attention.in_proj_weight.shape == (72, 24)
