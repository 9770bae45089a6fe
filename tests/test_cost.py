"""Costs of many subnets at once and as differentiable functions, beside those of single subnets."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from toy_networks import TOYS, conv

from mmprune.channels import ChannelGroup, EqualBlocks
from mmprune.cost import COLUMNS, CostError, Term, WidthForms
from mmprune.errors import InputError
from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model


class Attention(nn.Module):
    """Four heads of four channels, a residual, and a linear layer on all tokens at once."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.num_heads, self.qkv, self.out = 4, nn.Linear(8, 48), nn.Linear(16, 8)
        self.head = nn.Linear(5 * 8, 4)

    def forward(self, tokens):
        tokens = self.stem(tokens)
        batch, count, _ = tokens.shape
        qkv = (
            self.qkv(self.norm(tokens))
            .reshape(batch, count, 3, self.num_heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        query, key, value = qkv.unbind(0)
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, count, -1)
        return self.head((tokens + self.out(mixed)).flatten(1))


def prepared(network, data, **options):
    torch.manual_seed(0)
    model = randomise(network.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **options))
    pruner.prepare_from_supernet(model, data)
    return model, pruner


def demo_input(toy):
    if toy.INPUT is None:
        return {
            'grey': torch.rand(2, 1, 8, 8, dtype=torch.float64),
            'depth': torch.rand(2, 4, 8, 8, dtype=torch.float64),
        }
    return torch.rand(toy.INPUT, dtype=torch.float64)


TOKENS = torch.rand(2, 5, 3, dtype=torch.float64)
NETWORKS = [
    *(pytest.param(toy(), demo_input(toy), {}, id=toy.__name__) for toy in TOYS),
    pytest.param(Attention(), TOKENS, {'attention': 'heads'}, id='attention by heads'),
    pytest.param(Attention(), TOKENS, {'attention': 'dims'}, id='attention by dims'),
]


@pytest.mark.parametrize(('network', 'data', 'options'), NETWORKS)
def test_many_subnets_cost_what_each_does_and_what_it_does_deployed(network, data, options):
    model, pruner = prepared(network, data, **options)
    table = pruner.cost_table()
    subnets = [scattered(pruner, seed, ratio) for seed, ratio in enumerate((0.2, 0.5, 0.7, 0.9))]
    widths = np.stack([table.widths_of(subnet) for subnet in subnets])
    alone = [pruner.cost(subnet, COLUMNS) for subnet in subnets]
    expected = {column: [cost[column] for cost in alone] for column in COLUMNS}

    found = table.batch(widths, COLUMNS)
    assert {column: values.tolist() for column, values in found.items()} == expected
    smooth = table.differentiable(torch.from_numpy(widths), COLUMNS)
    assert {column: values.tolist() for column, values in smooth.items()} == expected
    assert len(set(expected['macs'])) > 1

    check_expectation(table, widths[[0, 3]])

    pruner.set_subnet(subnets[1])
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    other = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    other.prepare_from_supernet(deployed, data)
    assert other.cost(columns=COLUMNS) == alone[1]


def check_expectation(table, two):
    """Each group is one of two widths: the expectation is the weighted sum over all subnets."""
    first = np.random.default_rng(0).uniform(0.1, 0.9, two.shape[1])
    chances = np.stack([first, 1 - first], axis=1)
    choices = np.array(list(itertools.product((0, 1), repeat=two.shape[1])))
    groups = np.arange(two.shape[1])
    weights = chances[groups, choices].prod(1)
    columns = COLUMNS[:-1]  # the last one is a maximum
    costs = table.batch(two[choices, groups], columns)
    found = table.expected(torch.from_numpy(two.T), torch.from_numpy(chances), columns)
    for column in columns:
        np.testing.assert_allclose(float(found[column]), weights @ costs[column], rtol=1e-12)
    with pytest.raises(InputError, match="'peak' is the largest of several numbers"):
        table.expected(torch.from_numpy(two.T), torch.from_numpy(chances), COLUMNS)
    with pytest.raises(InputError, match='widths and chances have a row for each of the'):
        table.expected(torch.from_numpy(two), torch.from_numpy(chances[:0]))


def test_gradients_are_those_of_finite_differences():
    _, pruner = prepared(Attention(), TOKENS, attention='dims')
    table = pruner.cost_table()
    widths = torch.from_numpy(table.full_widths * 0.6).requires_grad_(True)
    for column in COLUMNS:
        assert torch.autograd.gradcheck(
            lambda w, column=column: table.differentiable(w, [column])[column], widths
        )


def test_learned_widths_move_towards_a_budget():
    _, pruner = prepared(TOYS[0](), demo_input(TOYS[0]))
    table = pruner.cost_table()
    full = pruner.cost({n: torch.ones_like(m) for n, m in pruner.channel_spaces.items()})['macs']
    logits = {name: torch.zeros(()).add(3).requires_grad_(True) for name in table.group_names}
    optimizer = torch.optim.Adam(logits.values(), lr=0.05)
    for _ in range(100):
        widths = {
            name: torch.sigmoid(logit) * width
            for (name, logit), width in zip(logits.items(), table.full_widths, strict=True)
        }
        share = table.differentiable(widths)['macs'] / full
        optimizer.zero_grad()
        (share - 0.4).square().backward()
        optimizer.step()
    assert abs(float(share.detach()) - 0.4) < 0.02


def group(*constraints):
    blocks = tuple(EqualBlocks(np.array(rows), 'a test') for rows in constraints)
    return ChannelGroup('a', np.arange(8), ('a',), (), (), blocks, '')


HALVES = [[0, 1, 2, 3], [4, 5, 6, 7]]
QUARTERS = [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ('constraints', 'labels', 'constant', 'coefficient'),
    [
        ([], range(8), 0, Fraction(1)),
        ([], [*range(8), *range(8), -1, -3], 2, Fraction(2)),
        ([HALVES], [0, 1, 2, 3], 0, Fraction(1, 2)),
        ([HALVES], [0, 1, 2, 3, *range(8)], 0, Fraction(3, 2)),
        ([QUARTERS], [2, 3, 4, 5, 4, 5], 0, Fraction(3, 4)),
        ([[[0, 1], [2, 3]], [[4, 5], [6, 7]], HALVES], [0, 1, 4, 5], 0, Fraction(1, 2)),
    ],
)
def test_labels_are_counted_by_widths(constraints, labels, constant, coefficient):
    forms = WidthForms({'a': group(*constraints)}, num_labels=8)
    form = forms.form(np.array(labels), 'a tensor')
    assert (form.constant, form.coefficients) == (constant, ((0, coefficient),))


@pytest.mark.parametrize(
    ('constraints', 'labels'),
    [([], [0, 1, 2, 3]), ([HALVES], [0, 1]), ([HALVES], [0, 4]), ([[[0, 1], [2, 3]]], [0, 1])],
)
def test_what_depends_on_the_kept_channels_is_refused(constraints, labels):
    forms = WidthForms({'a': group(*constraints)}, num_labels=8)
    message = (
        rf"a tensor: .*which channels of group 'a'.*it has {len(labels)} of the 8.*pruner\.cost"
    )
    with pytest.raises(CostError, match=message):
        forms.form(np.array(labels), 'a tensor')


def test_blocks_that_do_not_shrink_alike_are_refused():
    rows = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    outside = np.array([[-1], [-1]])
    term = Term('a tensor', 1, ((outside, rows),))
    even = WidthForms({'a': group(HALVES)}, num_labels=8)
    assert [form.coefficients for form in even.forms_of(term)] == [(), ((0, Fraction(1, 2)),)]
    uneven = WidthForms({'a': group(HALVES)}, num_labels=8)
    mixed = Term('a tensor', 1, ((outside, np.array([[0, 1, 2, 3], [-1, -1, 5, 6]])),))
    with pytest.raises(CostError, match='a tensor: '):
        uneven.forms_of(mixed)


def test_what_depends_on_the_kept_channels_has_a_mean():
    """Over all sets of so many; what widths tell exactly stays exact."""
    forms = WidthForms({'a': group()}, num_labels=8, mean=True)
    assert forms.form(np.array([0, 1, 2, -1]), 'a tensor').coefficients == ((0, Fraction(3, 8)),)
    assert forms.multiples.tolist() == [1]
    halves = WidthForms({'a': group(HALVES)}, num_labels=8, mean=True)
    rows = np.array([[0, 1, 2, 3], [-1, -1, 5, 6]])
    (outside, inside) = halves.forms_of(Term('a tensor', 1, ((np.array([[-1], [-1]]), rows),)))
    assert (outside.constant, outside.coefficients) == (2, ())
    assert (inside.constant, inside.coefficients) == (1, ((0, Fraction(3, 8)),))


def test_widths_that_no_subnet_has_are_refused():
    toy = next(toy for toy in TOYS if toy.__name__ == 'GroupedConv')
    _, pruner = prepared(toy(), demo_input(toy))
    table = pruner.cost_table()
    assert table.group_names == ('a', 'b')
    assert table.full_widths.tolist() == [12, 8]
    assert table.multiples.tolist() == [4, 4]
    for widths, message in (
        (
            [[12, 8], [6, 8]],
            r"row 1 keeps 6 channels of group 'a', which keeps 1 to 12, in mult.* 4",
        ),
        ([[0, 8]], r"row 0 keeps 0 channels of group 'a'"),
        ([[12, 9]], r"row 0 keeps 9 channels of group 'b', which keeps 1 to 8"),
    ):
        with pytest.raises(CostError, match=message):
            table.batch(np.array(widths))
    for widths, message in (
        (np.ones((3, 5), int), r'2 columns.*found the shape \(3, 5\)'),
        (np.ones((3, 2)), r'whole numbers, found float64.*differentiable'),
    ):
        with pytest.raises(InputError, match=message):
            table.batch(widths)
    with pytest.raises(InputError, match=r'found the shape \(3,\)'):
        table.differentiable(torch.ones(3))
    with pytest.raises(InputError, match="group 'b' is missing"):
        table.differentiable({'a': torch.ones(())})
    for columns in (['flops'], [], 'macs'):
        with pytest.raises(InputError, match='macs, params, activations, traffic, peak'):
            pruner.cost(columns=columns)


def test_numbers_beyond_float64_stay_exact():
    """A layer whose MACs have more digits than float64."""
    data = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    _, pruner = prepared(TOYS[0](), data)
    table = pruner.cost_table()
    exact = table.batch(table.full_widths[None])['macs']
    huge = 3**30 + 1
    for product in range(len(pruner.supernet.cost_model.products)):
        term = pruner.supernet.cost_model.products[product]
        pruner.supernet.cost_model.products[product] = type(term)(
            term.what, term.constant * huge, term.clusters, term.divisor
        )
    del pruner.supernet.cost_table
    assert pruner.cost_table().batch(table.full_widths[None])['macs'] == exact * huge
    assert int(exact[0]) * huge > 2**53


# -- memory ----------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.a, self.relu = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(inplace)
        self.b, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.a(x))
        return self.head((x + self.b(x)).mean((2, 3)))


def elements_of_residual(channels):
    """Elements that the layers read and write: inputs, parameters, outputs, by hand."""
    c, space = channels, 25
    return (
        (3 * space + 27 * c + c * space)  # a
        + (c * space + c * space)  # relu
        + (c * space + c * c + c + c * space)  # b
        + (2 * c * space + c * space)  # the sum
        + (c * space + c)  # the mean
        + (c + 2 * c + 2 + 2)  # head
    )


@pytest.mark.parametrize('inplace', [False, True])
def test_memory_by_hand(inplace):
    _, pruner = prepared(Residual(inplace), torch.rand(1, 3, 5, 5, dtype=torch.float64))
    for kept in (4, 3):
        mask = torch.tensor([1.0] * kept + [0.0] * (4 - kept)).reshape(1, 4, 1, 1)
        cost = pruner.cost({'a': mask}, ['traffic', 'peak', 'activations'])
        assert cost['traffic'] == 8 * elements_of_residual(kept)
        # At the sum: the network's input, both summands and the result.
        assert cost['peak'] == 8 * (75 + 3 * kept * 25)
        maps = 3 if inplace else 4  # of a, relu unless it is in place, b and the sum
        assert cost['activations'] == 8 * (75 + maps * kept * 25 + kept + 2)


class Wide(nn.Module):
    """The activation after a wide layer is what holds most, unless it works in place."""

    def __init__(self, inplace):
        super().__init__()
        self.a, self.relu, self.b = conv(3, 16, 1), nn.ReLU(inplace), conv(16, 2, 1)

    def forward(self, x):
        return self.b(self.relu(self.a(x))).flatten(1)


@pytest.mark.parametrize(('inplace', 'held'), [(False, 32), (True, 18)])
def test_what_works_in_place_takes_no_memory(inplace, held):
    _, pruner = prepared(Wide(inplace), torch.rand(1, 3, 5, 5, dtype=torch.float64))
    assert pruner.cost(columns=['peak'])['peak'] == 8 * 25 * (3 + held)


def test_peak_is_what_torch_allocates():
    """Beside torch's own account of a pass, in which freed tensors are returned at once."""
    data = torch.rand(64, 4, dtype=torch.float64)
    # Kernels that take no memory of their own, and no name that holds a tensor for longer.
    sizes = [(4, 9), (9, 30), (30, 20), (20, 2)]
    layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.Sigmoid())]
    model, pruner = prepared(nn.Sequential(*layers), data)
    pruner.set_min_channel()
    plain = pruner.deploy_subnet(model, pruner.export_subnet())
    with torch.no_grad():
        run_model(plain, data)
        with torch.profiler.profile(profile_memory=True) as profiled:
            output = run_model(plain, data)
    events = profiled.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == '[memory]'])
    assert output.shape == (64, 2)
    assert pruner.cost(columns=['peak'])['peak'] - data.nbytes == held.max()
