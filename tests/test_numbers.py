"""Numbers that know where they come from: sizes of dims, attributes, constants, quantities."""

import math

import pytest
import torch
import torch.nn.functional as F
from randomised import randomise, scattered
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.trace import trace
from mmprune.trace.calls import tensors_in
from mmprune.trace.expressions import Attribute, Computed, Dim, text
from mmprune.trace.numbers import Number, NumberLog


def pruned(model, data, **options):
    """A pruner whose four scattered subnets are exact, and what is left at half of every group."""
    torch.manual_seed(0)
    model = randomise(model.double()).eval()
    settings = dict(type='RatioPruner', ratios=[0.5, 1.0])
    pruner = PRUNERS.build(settings | options)
    pruner.prepare_from_supernet(model, data.double())
    for seed in range(4):
        report = pruner.verify_subnet(model, scattered(pruner, seed))
        assert report.ok, report
    pruner.set_min_channel()
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    return pruner, small, left


def reasons(pruner):
    """Why groups are pinned that are neither inputs nor outputs of the network."""
    plain = ('output of the network', 'input of the network')
    found = {name: group.reason for name, group in pruner.channel_groups.items()}
    return {name: why for name, why in found.items() if why and not any(p in why for p in plain)}


class Attention(nn.Module):
    """Heads whose number and width are read in ways of its own."""

    def __init__(self, how, width=64, heads=8):
        super().__init__()
        self.num_heads, self.head_dim, self.how = heads, width // heads, how
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, tokens, width = x.shape
        shape = {
            'head_dim': (batch, tokens, -1, self.head_dim),
            'num_heads': (batch, tokens, self.num_heads, -1),
            'computed': (batch, tokens, self.num_heads, width // self.num_heads),
            'shape': (*x.shape[:-1], -1, self.head_dim),
        }[self.how]
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


@pytest.mark.parametrize('attention', ['heads', 'dims'])
@pytest.mark.parametrize('heads', [2, 4, 8])
@pytest.mark.parametrize('how', ['head_dim', 'num_heads', 'computed', 'shape'])
def test_heads_are_known_though_there_are_as_many_channels_in_each(how, heads, attention):
    model = nn.Sequential(nn.Linear(6, 64), Attention(how, heads=heads), nn.Linear(64, 3))
    pruner, small, left = pruned(model, torch.randn(2, 9, 6), attention=attention)
    assert reasons(pruner) == {}
    assert left < 0.3
    if how in ('head_dim', 'shape'):
        assert small[1].head_dim == (64 // heads if attention == 'heads' else 32 // heads)


class Recurrence(nn.Module):
    """A convolution over time whose state begins as a constant."""

    def __init__(self, how, width=16):
        super().__init__()
        self.width, self.how = width, how
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.state, self.head = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        y = self.a(x)
        batch, channels, height, width = y.shape
        state = {
            'attribute': lambda: torch.zeros(batch, self.width, height, width, dtype=y.dtype),
            'dim': lambda: torch.zeros((batch, channels, height, width), dtype=y.dtype),
            'new': lambda: y.new_zeros(batch, self.width, height, width),
            'layer': lambda: y.new_ones(batch, self.state.out_channels, height, width),
            'shape': lambda: x.new_full(y.shape, 0.3),
            'size': lambda: torch.full(y.size(), 0.3, dtype=y.dtype),
            'like': lambda: torch.zeros_like(y),
        }[self.how]()
        for _ in range(3):
            state = torch.tanh(self.b(y) + self.state(state))
        return self.head(state)


@pytest.mark.parametrize('how', ['attribute', 'dim', 'new', 'layer', 'shape', 'size', 'like'])
def test_a_constant_as_wide_as_the_data_has_channels_of_the_data(how):
    pruner, _, left = pruned(Recurrence(how), torch.randn(2, 3, 8, 8))
    assert reasons(pruner) == {}
    assert left < 0.3


class Cells(nn.Module):
    """Recurrent layers of torch with a state of one's own."""

    def __init__(self, cell):
        super().__init__()
        self.width, self.embed, self.head = 24, nn.Linear(6, 12), nn.Linear(24, 3)
        kind = {'cell': nn.GRUCell, 'layer': nn.GRU, 'lstm': nn.LSTM}[cell]
        self.cell, self.how = (
            kind(12, 24, **({} if cell == 'cell' else {'batch_first': True})),
            cell,
        )

    def forward(self, x):
        x = self.embed(x)
        if self.how == 'cell':
            state = x.new_zeros(x.size(0), self.width)
            for time in range(x.size(1)):
                state = self.cell(x[:, time], state)
            return self.head(state)
        state = torch.zeros(1, len(x), self.width, dtype=x.dtype)
        state = (state, torch.zeros_like(state)) if self.how == 'lstm' else state
        return self.head(self.cell(x, state)[0])


@pytest.mark.parametrize('cell', ['cell', 'layer', 'lstm'])
def test_states_of_recurrent_layers(cell):
    pruner, _, left = pruned(Cells(cell), torch.randn(2, 5, 6))
    assert reasons(pruner) == {}
    assert left < 0.3


class Blur(nn.Module):
    """A fixed depthwise kernel, made as wide as the data."""

    def __init__(self, how):
        super().__init__()
        self.how, self.width = how, 16
        self.register_buffer('kernel', torch.rand(1, 1, 3, 3))
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x):
        x = self.a(x)
        kernel, groups = {
            'expand': lambda: (self.kernel.expand(x.shape[1], 1, 3, 3), x.shape[1]),
            'repeat': lambda: (self.kernel.repeat(x.size(1), 1, 1, 1), x.size(1)),
            'attribute': lambda: (self.kernel.expand(self.width, -1, -1, -1), self.width),
            'code': lambda: (self.kernel.expand(16, -1, -1, -1), 16),
        }[self.how]()
        return self.b(F.conv2d(x, kernel, groups=groups))


@pytest.mark.parametrize('how', ['expand', 'repeat', 'attribute', 'code'])
def test_kernels_as_wide_as_the_data(how):
    pruner, _, left = pruned(Blur(how), torch.randn(2, 3, 9, 9))
    assert ('a' in pruner.channel_spaces) is (how != 'code')
    assert left == 1.0 if how == 'code' else left < 0.51


class Shortcut(nn.Module):
    """A shortcut that is filled up to the width of what it meets."""

    def __init__(self, how):
        super().__init__()
        self.how, self.extra = how, 16
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x)
        more = y.size(1) - x.size(1)
        rest = (x.size(0), *x.shape[2:])
        x = {
            'cat': lambda: torch.cat([x, x.new_zeros(rest[0], more, *rest[1:])], 1),
            'attribute': lambda: torch.cat([x, x.new_zeros(rest[0], self.extra, *rest[1:])], 1),
            'pad': lambda: F.pad(x, (0, 0, 0, 0, 0, more)),
            'code': lambda: F.pad(x, (0, 0, 0, 0, 8, 8)),
        }[self.how]()
        return self.head(torch.relu(x + y))


@pytest.mark.parametrize('how', ['cat', 'attribute', 'pad', 'code'])
def test_channels_of_a_constant_beside_those_of_the_data(how):
    pruner, _, left = pruned(Shortcut(how), torch.randn(2, 3, 8, 8))
    assert left < (0.4 if how == 'code' else 0.3)
    assert 'a' in pruner.channel_spaces


class Canvas(nn.Module):
    """Data that is written into a larger constant."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 3)

    def forward(self, x):
        y = self.a(x)
        batch, channels, height, width = y.shape
        canvas = torch.zeros(batch, channels, 2 * height, 2 * width, dtype=y.dtype)
        canvas[:, :, ::2, ::2] = y
        return self.b(canvas)


def test_a_canvas_as_wide_as_the_data():
    pruner, _, left = pruned(Canvas(), torch.randn(2, 3, 8, 8))
    assert reasons(pruner) == {}
    assert left < 0.51


class Scaled(nn.Module):
    """A width that is a quantity: masked, sliced and deployed compute with the same."""

    def __init__(self, how):
        super().__init__()
        self.how, self.width = how, 32
        self.a, self.b, self.head = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        x = {
            'attribute': lambda: x * self.width**0.5,
            'root': lambda: x / x.size(-1) ** 0.5,
            'math': lambda: x * math.sqrt(x.shape[-1]),
            'both': lambda: (x * self.width**-0.5).view(len(x), self.width),
            'mean': lambda: x - x.sum(-1, keepdim=True) / x.shape[-1],
            'layer': lambda: x / self.a.out_features,
            'tensor': lambda: x * torch.rsqrt(torch.tensor(float(x.shape[-1]))),
            'half': lambda: x / (x.shape[-1] // 2),
        }[self.how]()
        return self.head(torch.relu(self.b(x)))


@pytest.mark.parametrize(
    'how', ['attribute', 'root', 'math', 'both', 'mean', 'layer', 'tensor', 'half']
)
def test_a_size_may_be_a_quantity(how):
    pruner, small, left = pruned(Scaled(how), torch.randn(2, 6))
    assert reasons(pruner) == {}
    assert left < 0.35
    # What is only ever a quantity is none of the channels' business.
    assert small.width == (16 if how == 'both' else 32)


class Halves(nn.Module):
    """Channels that are cut at places that are numbers of many kinds."""

    def __init__(self, how):
        super().__init__()
        self.how, self.part, self.all = how, 8, 16
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x):
        x = self.a(x)
        channels = x.shape[1]
        first, second = {
            'slice': lambda: (x[:, : channels // 2], x[:, channels // 2 :]),
            'attribute': lambda: (x[:, : self.part], x[:, self.part :]),
            'from the end': lambda: (x[:, : -self.part], x[:, -self.part :]),
            'split': lambda: x.split([channels // 2, channels - channels // 2], 1),
            'difference': lambda: x.split([self.part, self.all - self.part], 1),
            'quarter': lambda: torch.split(x, [channels // 4, channels - channels // 4], 1),
            'narrow': lambda: (x.narrow(1, 0, channels // 2), x.narrow(1, channels // 2, 8)),
            'code': lambda: (x[:, :8], x[:, 8:]),
        }[self.how]()
        return self.b(torch.cat([first.relu(), second.tanh()], 1))


@pytest.mark.parametrize(
    'how', ['slice', 'attribute', 'from the end', 'split', 'difference', 'quarter', 'code']
)
def test_where_channels_are_cut(how):
    pruner, _, left = pruned(Halves(how), torch.randn(2, 3, 8, 8))
    if how == 'code':
        assert reasons(pruner) == {'a': 'a slice in the root module counts 8 of them in its code'}
    else:
        assert reasons(pruner) == {}
        assert left < 0.51


class Merge(nn.Module):
    """Its second layer's outputs are shaped by its input's own width."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        shape = x.shape
        return self.b(self.a(x).relu().flatten(2).view(shape))


@pytest.mark.parametrize('width', [16, 40, 48])
def test_a_view_by_the_width_of_another_tensor_keeps_both_alike(width):
    """For some widths the counts of a single random subnet coincide."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, width, 1), Merge(width), nn.Conv2d(width, 3, 1)
    )
    data = torch.randn(1, 3, 8, 8).double()
    pruner, _, _ = pruned(model, data, ratios=[0.3, 0.4, 0.6, 0.7, 1.0])
    assert reasons(pruner) == {}
    for _ in range(6):
        pruner.set_subnet(pruner.sample_subnet())
        model(data)
    (reason,) = {c.reason for g in pruner.channel_groups.values() for c in g.constraints}
    assert reason == 'a view in 2 counts them by size(1)'


class Asserts(nn.Module):
    def __init__(self):
        super().__init__()
        self.expected, self.a, self.b = 16, nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        if x.shape[-1] != self.expected:
            raise ValueError('another width')
        return self.b(x)


def test_a_number_that_is_compared_with_a_size_follows_it():
    _, small, left = pruned(Asserts(), torch.randn(2, 6))
    assert small.expected == 8
    assert left < 0.52


class AssertsOfBoth(nn.Module):
    """One number is compared with the widths of two layers, whose channels are not one."""

    def __init__(self):
        super().__init__()
        self.expected = 16
        self.a, self.b = nn.Linear(6, 16), nn.Linear(6, 16)
        self.c, self.d = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        for y in (a, b):
            assert y.shape[-1] == self.expected
        return self.c(a) * self.d(b)


def test_widths_that_one_number_is_compared_with_stay_equal():
    pruner, small, left = pruned(AssertsOfBoth(), torch.randn(2, 6))
    assert small.expected == 8
    assert left < 0.52
    assert reasons(pruner) == {}


class AssertsOfShapes(AssertsOfBoth):
    """Two layers whose channels are not one must be as wide as each other."""

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        assert a.shape == b.shape
        return self.c(a) * self.d(b)


def test_widths_that_are_compared_with_each_other_stay_equal():
    pruner, _, left = pruned(AssertsOfShapes(), torch.randn(2, 6))
    assert left < 0.52
    assert reasons(pruner) == {}


class LaidOut(nn.Module):
    """A size that is written in the code, or has come through a text."""

    def __init__(self, how):
        super().__init__()
        self.how, self.a, self.b = how, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def by_code(self, x):
        return x.view(len(x), 8, *x.shape[2:])

    def by_text(self, x):
        return x.view(len(x), int(str(x.shape[1])), *x.shape[2:])

    def forward(self, x):
        view = self.by_code if self.how == 'code' else self.by_text
        return self.head(self.b(view(self.a(x))))


@pytest.mark.parametrize(('how', 'is_pinned'), [('code', True), ('text', False)])
def test_a_number_in_the_code_is_told_from_one_of_unknown_origin(how, is_pinned):
    pruner, _, _ = pruned(LaidOut(how), torch.randn(2, 3, 4, 4))
    assert ('a' not in pruner.channel_spaces) is is_pinned
    assert 'b' in pruner.channel_spaces


class Queries(nn.Module):
    """torch's transformer between a backbone and queries, as many of them as it is wide."""

    def __init__(self, queries, hidden):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.transformer = nn.Transformer(32, 4, 1, 1, hidden, batch_first=True, dropout=0.0)
        self.queries, self.positions = nn.Embedding(queries, 32), nn.Parameter(torch.rand(64, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.backbone(x).flatten(2).transpose(1, 2) + self.positions
        queries = self.queries.weight.unsqueeze(0).expand(len(x), -1, -1)
        return self.head(self.transformer(x, queries))


@pytest.mark.parametrize(('queries', 'hidden'), [(10, 48), (32, 32)])
def test_sizes_that_coincide_are_told_apart(queries, hidden):
    pruner, small, left = pruned(Queries(queries, hidden), torch.randn(2, 3, 16, 16))
    assert set(reasons(pruner)) <= {'positions', 'queries.weight'}  # which are places
    assert left < 0.32
    assert small.transformer.d_model == small.positions.shape[1] == 16


def test_a_number_that_nobody_reads_is_mended_only_where_it_is_plain_which_dim_it_is():
    """With eight heads of eight channels the width of a head could be their number."""
    for heads, expected in ((4, 16), (8, 8)):
        model = nn.Sequential(nn.Linear(6, 64), Attention('num_heads', heads=heads))
        _, small, _ = pruned(nn.Sequential(*model, nn.Linear(64, 3)), torch.randn(2, 9, 6))
        assert (small[1].num_heads, small[1].head_dim) == (heads // 2, expected)


def test_expressions_of_a_trace():
    model = nn.Sequential(nn.Linear(6, 64), Attention('computed'), nn.Linear(64, 3))
    stored = {'1': {'num_heads': 8, 'head_dim': 8}}
    graph = trace(model, torch.randn(2, 9, 6), stored=stored)
    read = {reading.expression for reading in graph.readings if reading.dim == 3}
    (computed,) = {own for own in read if isinstance(own, Computed)}
    assert text(computed) == '(size(2) // self.num_heads)'
    assert {reading.expression for reading in graph.readings if reading.dim == 2} == {
        Attribute('1', 'num_heads')
    }
    dims = [own for _, own in graph.scales]
    assert dims
    assert all(isinstance(own, Dim) and own.dim == 3 for own in dims)
    assert model[1].num_heads == 8
    assert type(model[1].num_heads) is int


def test_numbers_that_a_module_is_given_hold_no_tensors():
    """They know the trace, whose tensors are not what the module was given."""
    log = NumberLog(lambda: '')
    weight = torch.ones(3, 4, requires_grad=True)
    number = log.size(weight, weight.shape)[0]
    assert isinstance(number, Number)
    assert tensors_in(((number, 4), weight)) == [weight]
