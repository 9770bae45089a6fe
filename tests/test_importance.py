"""Which channels weigh most, against values by hand."""

import numpy as np
import pytest
import torch
from randomised import randomise
from torch import nn

from mmprune.errors import InputError
from mmprune.importance import L1Importance, L2Importance, RandomImportance
from mmprune.registry import IMPORTANCE, PRUNERS

IMAGE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def prepared(model, **kwargs):
    model = randomise(model.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]) | kwargs)
    pruner.prepare_from_supernet(model, IMAGE)
    return model, pruner


def l1(tensor, dim):
    """Sum of absolute weights along every other dim."""
    others = [d for d in range(tensor.dim()) if d != dim]
    return tensor.detach().abs().sum(others).numpy()


def scores(importance, pruner, model, space_id):
    return importance.scores(pruner.channel_groups[space_id], model)


def test_a_chain_counts_filters_and_the_columns_that_read_them():
    model, pruner = prepared(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3))
    )
    expected = l1(model[0].weight, 0) + l1(model[2].weight, 1)
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, '0'), expected, rtol=1e-12)
    squares = model[0].weight.square().sum((1, 2, 3)) + model[2].weight.square().sum((0, 2, 3))
    found = scores(L2Importance(), pruner, model, '0')
    np.testing.assert_allclose(found, squares.detach().numpy(), rtol=1e-12)


def test_numbers_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -2, 0.5]).reshape(3, 1, 1, 1))
        model[0].bias.fill_(100)  # is not counted
        model[1].weight.copy_(torch.tensor([[1.0, 0, -4], [0, 0.5, 2]]).reshape(2, 3, 1, 1))
    pruner.prepare_from_supernet(model, IMAGE[:, :1].float())
    assert scores(L1Importance(), pruner, model, '0').tolist() == [2.0, 2.5, 6.5]
    assert scores(L2Importance(), pruner, model, '0').tolist() == [2.0, 4.25, 20.25]


class Coupled(nn.Module):
    """A residual sum of two layers, behind which a flattened linear layer and a concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(3, 2, 1), nn.Conv2d(6, 3, 1)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x):
        y = self.a(x) + self.b(x)
        return self.fc(y.flatten(1)), self.d(torch.cat([self.c(x), y], 1))


def test_coupled_members_are_added_up():
    model, pruner = prepared(Coupled())
    flattened = model.fc.weight.detach().abs().reshape(5, 4, 36).sum((0, 2)).numpy()
    expected = l1(model.a.weight, 0) + l1(model.b.weight, 0) + flattened
    expected += l1(model.d.weight, 1)[2:]
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, 'a'), expected, rtol=1e-12)
    expected = l1(model.c.weight, 0) + l1(model.d.weight, 1)[:2]
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, 'c'), expected, rtol=1e-12)


def test_a_grouped_convolution_reads_a_channel_in_its_own_group_only():
    model, pruner = prepared(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1, groups=2)))
    weight = model[1].weight.detach().abs().reshape(2, 2, 3)  # group, output, input of the group
    expected = l1(model[0].weight, 0) + weight.sum(1).flatten().numpy()
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, '0'), expected, rtol=1e-12)


def test_a_depthwise_filter_counts_once():
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)
    model, pruner = prepared(nn.Sequential(*layers))
    expected = sum(l1(m.weight, d) for m, d in zip(layers, (0, 0, 1), strict=True))
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, '0'), expected, rtol=1e-12)


def test_a_tied_weight_counts_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    )
    model[2].weight = model[1].weight
    model, pruner = prepared(model)
    (space_id,) = pruner.channel_spaces
    tied = model[1].weight
    expected = l1(model[0].weight, 0) + l1(tied, 0) + l1(tied, 1) + l1(model[3].weight, 1)
    found = scores(L1Importance(), pruner, model, space_id)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_transposed_convolution():
    model, pruner = prepared(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 2, 1))
    )
    expected = l1(model[1].weight, 1) + l1(model[2].weight, 1)
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, '1'), expected, rtol=1e-12)
    expected = l1(model[0].weight, 0) + l1(model[1].weight, 0)
    np.testing.assert_allclose(scores(L1Importance(), pruner, model, '0'), expected, rtol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_scores_are_of_double_precision_whatever_the_weights_are(dtype):
    model, pruner = prepared(Coupled())
    expected = scores(L1Importance(), pruner, model, 'a')
    found = scores(L1Importance(), pruner, model.to(dtype), 'a')
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_scores_do_not_depend_on_the_subnet_that_is_set(execution):
    model, pruner = prepared(Coupled(), execution=execution)
    expected = scores(L1Importance(), pruner, model, 'a')
    pruner.set_min_channel()
    np.testing.assert_array_equal(scores(L1Importance(), pruner, model, 'a'), expected)


def test_the_pruner_keeps_the_heaviest_channels():
    for kind, power in (('L1Importance', 1), ('L2Importance', 2)):
        model, pruner = prepared(Coupled(), importance=dict(type=kind))
        subnet = pruner.subnet_of_ratio(0.5)
        found = scores(IMPORTANCE.build(dict(type=kind)), pruner, model, 'a')
        kept = subnet['a'].flatten().numpy().astype(bool)
        assert kept.sum() == 2
        assert found[kept].min() > found[~kept].max()
        with torch.no_grad():  # what becomes heavy is kept from then on
            weakest = int(found.argmin())
            model.a.weight[weakest] += 1000.0**power
        assert pruner.subnet_of_ratio(0.5)['a'].flatten()[weakest] == 1


def test_random_importance_draws_the_same_for_a_group_every_time():
    _, pruner = prepared(Coupled())
    first, other = (pruner.channel_groups[space_id] for space_id in ('a', 'c'))
    model = pruner.supernet.model
    drawn = RandomImportance(seed=3).scores(first, model)
    np.random.seed(5)
    torch.manual_seed(5)
    np.testing.assert_array_equal(RandomImportance(seed=3).scores(first, model), drawn)
    assert drawn.shape == (4,)
    assert (RandomImportance(seed=4).scores(first, model) != drawn).all()
    assert set(RandomImportance(seed=3).scores(other, model)).isdisjoint(drawn)
    _, again = prepared(Coupled(), except_start_keys=['c'])
    group = again.channel_groups['a']
    np.testing.assert_array_equal(RandomImportance(seed=3).scores(group, model), drawn)


def test_random_importance_does_not_prefer_the_first_channels():
    model, pruner = prepared(nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 2, 1)))
    firsts = 0
    for seed in range(40):
        drawn = scores(RandomImportance(seed), pruner, model, '0')
        firsts += int(np.argsort(-drawn)[:32].min() == 0)
    assert 10 <= firsts <= 30


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('kind', ['L1Importance', 'L2Importance'])
def test_weights_that_are_no_numbers_are_named(kind, value):
    model, pruner = prepared(Coupled(), importance=dict(type=kind))
    with torch.no_grad():
        model.b.weight[1, 0] = value
    with pytest.raises(InputError, match=r"group 'a': 1 of the 12 numbers of 'b\.weight'"):
        pruner.sample_subnet()


class Own:
    """An importance of one's own."""

    def __init__(self, values):
        self.values = np.array(values)

    def scores(self, group, model):
        return self.values[: group.num_channels]


def test_an_importance_of_ones_own():
    _, pruner = prepared(Coupled(), importance=Own([0.0, 3, 1, 2]))
    assert pruner.subnet_of_ratio(0.5)['a'].flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([0.0, float('nan'), 1, 2], "group 'a': 1 of 4 channel scores are NaN or infinite"),
        ([0.0, 1.0], r"group 'a': 4 channels need as many scores, but these are of shape \(2,\)"),
    ],
)
def test_wrong_scores_are_refused_with_the_group(values, message):
    _, pruner = prepared(Coupled(), importance=Own(values))
    with pytest.raises(InputError, match=message):
        pruner.set_min_channel()
    assert all((mask == 1).all() for mask in pruner.current_subnet().values())
