"""A network of ten weights whose scores can be worked out on paper."""

import torch
from torch import nn

from mmprune.registry import IMPORTANCE, PRUNERS

A, B, D, F = [1.0, -2.0], [3.0, 0.25], [-1.0, 2.0], [1.0, -1.0, 2.0, 0.5]


class ByHand(nn.Module):
    """Two channels: a residual sum, a depthwise filter, two columns each behind a flatten."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        self.d = nn.Conv2d(2, 2, 1, groups=2, bias=False)
        self.fc = nn.Linear(4, 1, bias=False)
        for layer, numbers in ((self.a, A), (self.b, B), (self.d, D), (self.fc, F)):
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(numbers).reshape(layer.weight.shape))
        self.double()

    def forward(self, x):
        return self.fc(self.d(self.a(x) + self.b(x)).flatten(1))


# A batch is one image of two pixels. The output is the sum over channels c and pixels p of
# F[c, p] * D[c] * (A[c] + B[c]) * x[p].
FIRST = torch.tensor([2.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
SECOND = torch.tensor([0.0, 2.0], dtype=torch.float64).reshape(1, 1, 1, 2)


def by_hand():
    """(model, pruner, its only prunable group)."""
    model = ByHand()
    return model, *prepared(model, FIRST)


def prepared(model, data):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    (space_id,) = pruner.channel_spaces
    return pruner, pruner.channel_groups[space_id]


def scores(model, group, kind, **options):
    return IMPORTANCE.build(dict(type=kind, **options)).scores(group, model).tolist()
