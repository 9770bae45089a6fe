"""Every criterion that looks at weights, against values worked out by hand."""

import numpy as np
import pytest
import torch
from hand_network import by_hand, prepared, scores
from torch import nn

from mmprune.channels import Member
from mmprune.channels.member_values import (
    channel_rows,
    channel_sums,
    has_elements,
    shared_sums,
    spread,
)
from mmprune.errors import InputError
from mmprune.importance import FPGMImportance, Importance, L1Importance, LAMPImportance
from mmprune.importance.base import MemberScores, ordered_members
from mmprune.registry import IMPORTANCE, PRUNERS

# Sums of absolute weights of (a, b, d, fc): channel 0 has 1, 3, 1, 2 and channel 1 has
# 2, 0.25, 2, 2.5.
REDUCED = {
    'sum': [7.0, 6.75],
    'mean': [1.75, 1.6875],
    'max': [3.0, 2.5],
    'product': [6.0, 2.5],
    'first': [1.0, 2.0],
}


@pytest.mark.parametrize('reduction', REDUCED)
def test_reductions_over_coupled_members(reduction):
    model, _, group = by_hand()
    assert scores(model, group, 'L1Importance', reduction=reduction) == REDUCED[reduction]


@pytest.mark.parametrize(
    ('normalise', 'expected'),
    [
        ('none', [7, 6.75]),
        ('sum', [7 / 13.75, 6.75 / 13.75]),
        ('mean', [7 / 6.875, 6.75 / 6.875]),
        ('max', [1, 6.75 / 7]),
        ('standardised', [1, -1]),
    ],
)
def test_normalisations(normalise, expected):
    model, _, group = by_hand()
    found = scores(model, group, 'L1Importance', normalise=normalise)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_sides_of_the_channels():
    model, _, group = by_hand()
    assert scores(model, group, 'L1Importance', members='outputs') == [5, 4.25]
    assert scores(model, group, 'L1Importance', members='inputs') == [2, 2.5]


def test_members_come_in_order_of_execution():
    model, _, group = by_hand()
    names = [member.tensor for member in ordered_members(group, model)]
    assert names == ['a.weight', 'b.weight', 'd.weight', 'fc.weight']


def test_powers_and_norms():
    model, _, group = by_hand()
    assert scores(model, group, 'L2Importance') == [1 + 9 + 1 + 2, 4 + 0.0625 + 4 + 4.25]
    root = [1 + 3 + 1 + 2**0.5, 2 + 0.25 + 2 + 4.25**0.5]
    np.testing.assert_allclose(scores(model, group, 'LpImportance'), root, rtol=1e-15)
    np.testing.assert_allclose(scores(model, group, 'L2Importance', root=True), root, rtol=1e-15)
    cubes = [1 + 27 + 1 + 2, 8 + 0.25**3 + 8 + 8.125]
    found = scores(model, group, 'LpImportance', p=3, root=False)
    np.testing.assert_allclose(found, cubes, rtol=1e-15)


@pytest.mark.parametrize(
    ('kind', 'options', 'expected'),
    [
        # |weights| of the filters and of the columns that read them, and |scales| of both norms.
        ('L1Importance', {}, [2 + 5 + 0.5 + 3, 4 + 1 + 0.25 + 1]),
        ('L1Importance', dict(reduction='max'), [5, 4]),
        ('L1Importance', dict(reduction='first'), [2, 4]),
        ('L2Importance', {}, [4 + 25 + 0.25 + 9, 16 + 1 + 0.0625 + 1]),
        ('LpImportance', dict(p=3), [2 + 5 + 0.5 + 3, 4 + 1 + 0.25 + 1]),
        ('LAMPImportance', {}, [1, 18.0625 / (18.0625 + 38.25)]),
    ],
)
def test_scales_of_norms_may_count_too(kind, options, expected):
    layers = [nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.Conv2d(2, 1, 1)]
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for layer, numbers in zip(layers, ([2, -4], [-0.5, 0.25], [3, 1], [5, -1]), strict=True):
            layer.weight.copy_(torch.tensor(numbers).reshape(layer.weight.shape))
            layer.bias.fill_(100)
    _, group = prepared(model, torch.rand(1, 1, 2, 2, dtype=torch.float64))
    found = scores(model, group, kind, norms=True, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if 'reduction' not in options:
        alone = scores(model, group, 'L1Importance')
        assert alone == [7, 5]


def filters(*rows):
    """A convolution with these filters, and a layer that reads them."""
    width = len(rows[0])
    model = nn.Sequential(nn.Conv2d(1, len(rows), (1, width)), nn.Conv2d(len(rows), 1, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows).reshape(model[0].weight.shape))
    _, group = prepared(model, torch.rand(1, 1, 2, 4, dtype=torch.float64))
    return model, group


def test_geometric_median():
    """A right triangle with sides 3, 4 and 5: each corner's sum of distances."""
    model, group = filters([0.0, 0], [3.0, 0], [3.0, 4])
    np.testing.assert_allclose(scores(model, group, 'FPGMImportance'), [8, 7, 9], rtol=1e-12)


def test_geometric_median_of_the_columns_behind_a_flatten():
    """Channel 0 has the columns 1, -1 and channel 1 has 2, 0.5."""
    model, _, group = by_hand()
    distance = ((1 - 2) ** 2 + (-1 - 0.5) ** 2) ** 0.5
    found = scores(model, group, 'FPGMImportance', members='inputs')
    np.testing.assert_allclose(found, [distance, distance], rtol=1e-12)


def test_geometric_median_adds_up_over_coupled_layers():
    model, _, group = by_hand()
    expected = abs(1 - -2) + abs(3 - 0.25) + abs(-1 - 2)
    np.testing.assert_allclose(scores(model, group, 'FPGMImportance'), [expected] * 2, rtol=1e-12)


def test_lamp():
    """Squared norms 1, 9, 4: each over itself and what is larger."""
    model, group = filters([1.0, 0], [0.0, 3], [0.0, -2])
    found = scores(model, group, 'LAMPImportance', members='outputs')
    np.testing.assert_allclose(found, [1 / 14, 1, 4 / 13], rtol=1e-15)


def test_lamp_of_coupled_members():
    """Squares add up to 13 and 12.3125 over the members."""
    model, _, group = by_hand()
    found = scores(model, group, 'LAMPImportance')
    np.testing.assert_allclose(found, [1, 12.3125 / 25.3125], rtol=1e-15)


def test_lamp_of_weights_that_are_all_zero():
    assert LAMPImportance().of_group(np.zeros(3)).tolist() == [0, 0, 0]


class TwoNorms(nn.Module):
    """A residual sum of two normalised layers, and a layer without a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(3), nn.GroupNorm(3, 3)
        self.bare, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.norm_a.weight.copy_(torch.tensor([1.0, -2, 0.5]))
            self.norm_b.weight.copy_(torch.tensor([0.25, 0.5, -3]))

    def forward(self, x):
        return self.last(self.bare(self.norm_a(self.a(x)) + self.norm_b(self.b(x))))


def two_norms():
    model = TwoNorms().eval()
    return model, prepared_groups(model)


def prepared_groups(model):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, torch.rand(1, 1, 3, 3))
    return pruner.channel_groups


def test_scales_of_norms():
    model, groups = two_norms()
    assert scores(model, groups['a'], 'BNScaleImportance') == [1.25, 2.5, 3.5]
    assert scores(model, groups['a'], 'BNScaleImportance', reduction='first') == [1, 2, 0.5]
    assert scores(model, groups['a'], 'BNScaleImportance', reduction='max') == [1, 2, 3]


def test_scales_of_rms_norms():
    model = nn.Sequential(nn.Linear(3, 3), nn.RMSNorm(3), nn.Linear(3, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2, 0.5]))
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, torch.rand(2, 3))
    assert scores(model, pruner.channel_groups['0'], 'BNScaleImportance') == [1, 2, 0.5]


def test_a_group_without_a_norm_is_refused_or_falls_back():
    model, groups = two_norms()
    with pytest.raises(
        InputError, match=r"group 'bare': BNScaleImportance finds nothing .*\['bare'\]"
    ):
        scores(model, groups['bare'], 'BNScaleImportance')
    fallback = dict(type='L1Importance', normalise='max')
    found = scores(model, groups['bare'], 'BNScaleImportance', fallback=fallback)
    assert found == scores(model, groups['bare'], 'L1Importance', normalise='max')


@pytest.mark.parametrize(
    'kind', ['L1Importance', 'LpImportance', 'FPGMImportance', 'LAMPImportance']
)
def test_a_weight_that_is_no_number_is_named(kind):
    model, _, group = by_hand()
    with torch.no_grad():
        model.b.weight[1] = float('inf')
    with pytest.raises(InputError, match=r"group 'a': 1 of the 2 numbers of 'b\.weight'"):
        scores(model, group, kind)


def test_a_scale_that_is_no_number_is_named():
    model, groups = two_norms()
    with torch.no_grad():
        model.norm_b.weight[0] = float('nan')
    with pytest.raises(InputError, match=r"1 of the 3 numbers of 'norm_b\.weight'"):
        scores(model, groups['a'], 'BNScaleImportance')


def test_powers_that_are_too_large_are_named():
    model, _, group = by_hand()
    with torch.no_grad():
        model.a.weight[0] = 1e200
    with pytest.raises(InputError, match=r"1 of the 2 channel scores .* from 'a\.weight'"):
        scores(model, group, 'L2Importance')


class Given(Importance):
    """Members of which none has all channels."""

    def __init__(self, values, **options):
        super().__init__(**options)
        self.values = values

    def member_scores(self, group, model):
        return [
            MemberScores('x', np.nan_to_num(np.array(v)), ~np.isnan(np.array(v)))
            for v in self.values
        ]


NAN = float('nan')


@pytest.mark.parametrize(
    ('reduction', 'expected'),
    [
        ('sum', [3.0, 5, 7, 0]),
        ('mean', [1.5, 5, 7, 0]),
        ('max', [2.0, 5, 7, 0]),
        ('product', [2.0, 5, 7, 0]),
        ('first', [1.0, 5, 7, 0]),
    ],
)
def test_members_count_for_the_channels_that_they_have(reduction, expected):
    importance = Given([[1, 5, NAN, NAN], [2, NAN, 7, NAN]], reduction=reduction)
    assert importance.scores(None, None).tolist() == expected


def test_a_product_that_is_too_large_is_refused():
    _, _, group = by_hand()
    with pytest.raises(InputError, match='the product over 2 members is too large for 1 of 2'):
        Given([[1e200, 1], [1e200, 1]], reduction='product').scores(group, None)


@pytest.mark.parametrize('normalise', ['none', 'sum', 'mean', 'max', 'standardised'])
def test_normalising_keeps_the_order_of_scores_below_zero(normalise):
    found = Given([[-3, 1, -1, 2]], normalise=normalise).scores(None, None)
    assert np.argsort(found).tolist() == [0, 2, 1, 3]
    if normalise in ('sum', 'max'):
        np.testing.assert_allclose(
            found, np.array([-3, 1, -1, 2]) / {'sum': 7, 'max': 3}[normalise]
        )


@pytest.mark.parametrize('normalise', ['sum', 'mean', 'max', 'standardised'])
def test_a_group_whose_scores_are_all_zero_stays(normalise):
    assert Given([[0, 0]], normalise=normalise).scores(None, None).tolist() == [0, 0]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(reduction='median'), "L1Importance: reduction must be one of 'sum', .* 'median'"),
        (dict(normalise='l2'), "normalise must be one of 'none', .* not 'l2'"),
        (dict(members='both'), "members must be one of 'all', 'outputs', 'inputs', not 'both'"),
    ],
)
def test_options_that_are_unknown(options, message):
    with pytest.raises(InputError, match=message):
        L1Importance(**options)
    with pytest.raises(InputError, match=message.replace('L1Importance: ', '')):
        FPGMImportance(**options)


@pytest.mark.parametrize('p', [0, -1, float('inf')])
def test_an_exponent_that_is_none(p):
    with pytest.raises(InputError, match='p must be a finite number above 0'):
        IMPORTANCE.build(dict(type='LpImportance', p=p))


# -- elements of channels ----------------------------------------------------------------


def test_rows_of_a_grouped_convolution_and_back():
    """Two groups of two outputs that read three channels each: two elements per channel."""
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 4, 1, groups=2)).double()
    _, group = prepared(model, torch.rand(1, 1, 3, 3, dtype=torch.float64))
    (member,) = (m for m in group.members if m.tensor == '1.weight')
    weight = torch.arange(12.0).reshape(4, 3, 1, 1)
    expected = [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]
    assert channel_rows(weight, member, 6).tolist() == expected
    assert channel_sums(weight, member, 6).tolist() == [sum(row) for row in expected]
    assert has_elements(member, 6).all()
    back = spread(torch.arange(6.0), member, 4)
    assert back.flatten(1).tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2


def test_columns_of_other_groups():
    """The last two of five columns belong to a concatenated layer."""

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    model = Joined()
    groups = prepared_groups(model)
    (member,) = (m for m in groups['b'].members if m.tensor == 'c.weight')
    weight = torch.arange(10.0).reshape(2, 5, 1, 1)
    assert channel_rows(weight, member, 2).tolist() == [[3, 8], [4, 9]]
    assert channel_sums(weight, member, 2).tolist() == [11, 13]
    assert spread(torch.tensor([1.0, 2]), member, 4, other=7).flatten().tolist() == [7, 7, 7, 1, 2]


@pytest.mark.parametrize('shape', [(96, 80, 3, 3), (300, 260)])
def test_sums_of_both_sides_are_shared_and_forgotten(shape):
    """A weight is looked at once for both of its groups, and anew after it may have changed."""
    weight = nn.Parameter(torch.randn(shape))
    members = [Member('w', (dim,), np.arange(shape[dim])) for dim in (0, 1)]
    looks = []

    def squares(block):
        looks.append(len(block))
        return block.double().square()

    for _ in range(2):
        expected = [
            weight.detach().double().square().sum([d for d in range(len(shape)) if d != dim])
            for dim in (0, 1)
        ]
        looks.clear()
        with shared_sums():
            found = [channel_sums(weight, m, shape[d], squares) for d, m in enumerate(members)]
        assert sum(looks) == shape[0]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        weight.data.mul_(2)
