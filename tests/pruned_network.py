"""A small network with every kind of coupling, and what tests of the pruner share."""

import torch
import torch.nn.functional as F
from randomised import randomise
from torch import nn

from mmprune.registry import PRUNERS

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Network(nn.Module):
    """A residual sum, a concatenation, grouped and depthwise convolutions, three kinds of norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = conv(3, 8), nn.BatchNorm2d(8)
        self.left, self.right, self.both_norm = conv(8, 6), conv(8, 8), nn.BatchNorm2d(14)
        self.grouped, self.group_norm = conv(14, 12, groups=2), nn.GroupNorm(4, 12)
        self.wide, self.deep = conv(12, 16), conv(16, 16, groups=16)
        self.fc, self.layer_norm, self.head = nn.Linear(16, 10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = torch.cat([self.left(x), x + self.right(x)], 1)
        x = F.relu(self.group_norm(self.grouped(F.relu(self.both_norm(x)))))
        x = self.deep(self.wide(x)).mean((2, 3))
        return self.head(F.relu(self.layer_norm(self.fc(x))))


GROUPS = {'stem': 14, 'grouped': 12, 'wide': 16, 'fc': 10}


def build(**kwargs):
    return PRUNERS.build(dict(type='RatioPruner', ratios=[0.25, 0.5, 0.75, 1.0]) | kwargs)


def prepared(model=None, data=IMAGE, **kwargs):
    model = randomise((Network() if model is None else model).double()).eval()
    pruner = build(**kwargs)
    assert pruner.prepare_from_supernet(model, data) is None
    return model, pruner


def counts(subnet):
    return {space_id: int(mask.sum()) for space_id, mask in subnet.items()}


def kept(subnet):
    return {space_id: mask.flatten().tolist() for space_id, mask in subnet.items()}
