"""The trial of a prepared network: on which images it is made, and what counts as a proof."""

import torch
from torch import nn

from mmprune.registry import PRUNERS


class Seen:
    """What a model has noted; a trial leaves it as it is, since it is no container."""

    def __init__(self):
        self.seen = []


class CountsItsChannels(nn.Module):
    """Its forward multiplies by a size that has come through a text: slices and masks differ."""

    def __init__(self, on_small_images):
        super().__init__()
        self.on_small_images, self.sizes = on_small_images, Seen()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        self.sizes.seen.append(int(x.shape[-1]))
        y = self.a(x)
        factor = self.on_small_images if x.shape[-1] < 128 else int(str(y.shape[1]))
        return self.b(y * factor).mean((2, 3))


def prepared(on_small_images):
    torch.manual_seed(0)
    model = CountsItsChannels(on_small_images)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.rand(1, 3, 128, 128))
    return model, pruner


def test_images_of_half_the_size_are_tried_and_are_enough():
    # What the network does on the others is not tried: verification is there for that.
    model, pruner = prepared(on_small_images=2)
    assert set(model.sizes.seen[-2:]) == {64}
    assert pruner.channel_groups['a'].prunable
    assert not pruner.verify_subnet(model).ok


def test_what_is_not_finite_on_smaller_images_proves_nothing():
    model, pruner = prepared(on_small_images=float('nan'))
    assert 128 in model.sizes.seen[-2:]
    assert not pruner.channel_groups['a'].prunable
    assert 'a' not in pruner.channel_spaces
