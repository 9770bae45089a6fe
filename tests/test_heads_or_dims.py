"""Attention that can only lose whole heads does so, whatever else loses channels of each head."""

import pytest
import torch
from torch import nn

from mmprune.registry import PRUNERS


class Plain(nn.Module):
    """Attention over places: heads, or equally many channels of each."""

    def __init__(self):
        super().__init__()
        self.heads, self.width, self.scale = 4, 32, 8**-0.5
        self.qkv, self.proj = nn.Linear(24, 96), nn.Linear(32, 24)

    def split(self, x):
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.width // self.heads)
        return parts.permute(2, 0, 3, 1, 4)

    def forward(self, x):
        query, key, value = self.split(x)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(*x.shape[:2], self.width))


class Square(Plain):
    """As many channels in a head as there are heads: one number may be either."""

    def __init__(self):
        super().__init__()
        self.width, self.qkv, self.proj = 16, nn.Linear(24, 48), nn.Linear(16, 24)


class AcrossChannels(Plain):
    """Attention over the channels of a head (EdgeNeXt, XCiT): its softmax needs all of them."""

    def forward(self, x):
        query, key, value = (part.transpose(-2, -1) for part in self.split(x))
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        result = (weights @ value).permute(0, 3, 1, 2)
        return self.proj(result.reshape(*x.shape[:2], self.width))


class Torchs(nn.Module):
    """torch's own attention scales by the width of a head."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Both(nn.Module):
    """One attention of the plain kind, then another one."""

    def __init__(self, other):
        super().__init__()
        self.embed, self.first, self.other = nn.Linear(3, 24), Plain(), other()
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.first(x)
        x = x + self.other(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize('other', [Plain, Square, AcrossChannels, Torchs])
@pytest.mark.parametrize('attention', ['heads', 'dims'])
def test_each_attention_is_pruned_as_it_can_be(other, attention):
    torch.manual_seed(0)
    model = Both(other).double().eval()
    pruner = PRUNERS.build(
        dict(
            type='RatioPruner',
            ratios=[0.5],
            importance=dict(type='RandomImportance', seed=0),
            attention=attention,
        )
    )
    pruner.prepare_from_supernet(model, torch.randn(2, 5, 3, dtype=torch.float64))
    pruner.set_min_channel()
    report = pruner.verify_subnet(subnet=pruner.current_subnet())
    assert report.ok, report
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert (deployed.first.heads, deployed.first.width) == (2 if attention == 'heads' else 4, 16)
    if other is Torchs:
        assert deployed.other.attention.num_heads == 2
        assert deployed.other.attention.head_dim == 6
    else:
        goes_by_heads = attention == 'heads' or other is AcrossChannels
        assert deployed.other.heads == (2 if goes_by_heads else 4)
        assert deployed.other.width == (8 if other is Square else 16)
        assert deployed.other.qkv.out_features == 3 * deployed.other.width
    pinned = {name for name, group in pruner.channel_groups.items() if not group.prunable}
    assert pinned == {'head', 'embed.weight'}
