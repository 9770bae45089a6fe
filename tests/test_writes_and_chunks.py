"""In-place writes into rearranged views, and chunks of which the last is smaller."""

import itertools

import pytest
import torch
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.trace.writes import Rearranged, Writes


def prepared(model, shape):
    torch.manual_seed(0)
    model = model.double().eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.25, 0.5, 0.75],
                                importance=dict(type='RandomImportance', seed=0)))  # fmt: skip
    pruner.prepare_from_supernet(model, torch.randn(shape, dtype=torch.float64))
    return pruner


class PlacesAdded(nn.Module):
    """As many channels as places, so that shapes do not tell them apart."""

    def __init__(self):
        super().__init__()
        self.a, self.places, self.b = (nn.Conv2d(size, 16, 1) for size in (3, 3, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x):
        y = self.b(torch.relu(self.places(x)))
        tokens = self.a(x).flatten(2).transpose(1, 2)
        tokens += y.flatten(2).transpose(1, 2)
        return self.head(self.norm(tokens))


class BroadcastAdded(nn.Module):
    """A bias of the channels and a bias of the places, written into a rearranged view."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 2)
        self.bias, self.places = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16, 1))

    def forward(self, x):
        tokens = self.a(x).flatten(2).transpose(1, 2)
        tokens += self.bias
        tokens *= self.places
        return self.head(tokens)


def test_channels_that_are_added_in_place_to_a_transposed_view_go_together():
    pruner = prepared(PlacesAdded(), (2, 3, 4, 4))
    group = pruner.channel_groups[pruner.get_space_id('a')]
    assert group.prunable
    assert {'a', 'b', 'norm'} <= set(group.layers)
    assert group.consumers == ('head',)
    assert pruner.verify_subnet().ok


def test_what_is_broadcast_in_place_meets_the_channels_that_it_is_added_to():
    pruner = prepared(BroadcastAdded(), (2, 3, 4, 4))
    group = pruner.channel_groups[pruner.get_space_id('a')]
    assert group.prunable
    assert 'bias' in {member.tensor for member in group.members}
    assert 'places' not in {member.tensor for member in group.members}
    assert pruner.verify_subnet().ok


class Chunks(nn.Module):
    """Three chunks, two of them added; the last is smaller if it does not come out even."""

    def __init__(self, sizes, by_size):
        super().__init__()
        self.channels, self.by_size = sizes[0], by_size
        self.a, self.each = nn.Conv2d(3, sum(sizes), 1), nn.Conv2d(sizes[0], sizes[0], 1)
        self.b, self.head = nn.Conv2d(sizes[0] + sizes[2], 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        first, second, third = x.split(self.channels, 1) if self.by_size else x.chunk(3, 1)
        return self.head(self.b(torch.cat([third, self.each(first) + second], 1)))


@pytest.mark.parametrize('sizes', [(8, 8, 7), (4, 4, 4)], ids=['smaller', 'equal'])
@pytest.mark.parametrize('by_size', [True, False], ids=['split', 'chunk'])
def test_the_last_chunk_keeps_no_more_than_the_others(sizes, by_size):
    pruner = prepared(Chunks(sizes, by_size), (2, 3, 4, 4))
    groups = {name: group for name, group in pruner.channel_groups.items() if group.prunable}
    for shares in itertools.product((0.3, 0.5, 0.9), repeat=len(groups)):
        counts = {
            name: max(1, round(share * group.num_channels))
            for share, (name, group) in zip(shares, groups.items(), strict=True)
        }
        pruner.set_subnet(pruner.subnet_of_counts(counts))
        kept = torch.zeros(sum(sizes), dtype=torch.bool)
        entry = pruner.export_subnet()['a']
        kept[entry.get('out_index', list(range(entry['out_channels'])))] = True
        first, second, third = (int(part.sum()) for part in kept.split(sizes))
        assert first == second >= third > 0
        assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok


def test_a_view_is_told_by_its_strides():
    writes = Writes()
    base = torch.zeros(2, 4, 3, 3)
    for view, expected in (
        (base.flatten(2).transpose(1, 2), Rearranged((2, 9, 4), (36, 1, 9))),
        (base.permute(3, 0, 1, 2), Rearranged((3, 2, 4, 3), (1, 36, 9, 3))),
        (base[:, :2], None),
        (base[:, :1].expand(2, 4, 3, 3), None),
        (base.transpose(1, 2).contiguous(), None),
    ):
        start = torch.autograd._get_sequence_nr()
        # Something that takes a number in the graph.
        (torch.ones(1, requires_grad=True) * 2).sum()
        writes.note('add_', (view,), view, start)
        assert writes.at(start) == expected
