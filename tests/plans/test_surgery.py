"""One layer cut by hand gives what the full layer gives for the channels that stay."""

import copy

import pytest
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.layers import channels_of, check_fits, prune_in_channels, prune_out_channels

GONE = [1, 4]


def keep(size, gone=GONE):
    return [i for i in range(size) if i not in gone]


def take(data, dim, index):
    return data.index_select(dim, torch.tensor(index))


# (layer, input, dim of the channels)
LAYERS = {
    'conv1d': (nn.Conv1d(6, 8, 3), (2, 6, 7), 1),
    'conv2d': (nn.Conv2d(6, 8, 3), (2, 6, 5, 5), 1),
    'conv3d': (nn.Conv3d(6, 8, 3, bias=False), (1, 6, 4, 4, 4), 1),
    'transposed': (nn.ConvTranspose2d(6, 8, 3), (2, 6, 5, 5), 1),
    'linear': (nn.Linear(6, 8), (2, 3, 6), -1),
}


@pytest.mark.parametrize('name', LAYERS)
def test_outputs_and_inputs(name):
    layer, shape, dim = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    data = torch.randn(shape, dtype=torch.float64)
    small = prune_out_channels(copy.deepcopy(layer), GONE)
    torch.testing.assert_close(small(data), take(layer(data), dim, keep(8)))
    assert (channels_of(small, 'in'), channels_of(small, 'out')) == (6, 6)
    zeroed = data.clone()
    zeroed.index_fill_(dim, torch.tensor(GONE), 0)
    narrow = prune_in_channels(copy.deepcopy(layer), torch.tensor(GONE))
    torch.testing.assert_close(narrow(take(data, dim, keep(6))), layer(zeroed))
    assert channels_of(narrow, 'in') == 4
    assert all(parameter.is_leaf for parameter in narrow.parameters())


NORMS = {
    'batch': (nn.BatchNorm2d(8), (3, 8, 4, 4)),
    'batch without weight': (nn.BatchNorm2d(8, affine=False), (3, 8, 4, 4)),
    'batch of the batch': (
        nn.BatchNorm1d(8, affine=False, track_running_stats=False), (3, 8, 4)
    ),
    'instance': (nn.InstanceNorm2d(8, affine=True), (3, 8, 4, 4)),
    'prelu': (nn.PReLU(8), (3, 8, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize('name', NORMS)
@pytest.mark.parametrize('cut', [prune_in_channels, prune_out_channels])
def test_layers_with_as_many_inputs_as_outputs(name, cut):
    layer, shape = NORMS[name]
    layer = copy.deepcopy(layer).double()
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    data = torch.randn(shape, dtype=torch.float64)
    expected = take(copy.deepcopy(layer)(data), 1, keep(8))
    small = cut(layer, GONE)
    torch.testing.assert_close(small(take(data, 1, keep(8))), expected)
    assert channels_of(small, 'out') == 6


def test_norms_over_channels_keep_their_weights():
    layer = nn.LayerNorm(8)
    nn.init.uniform_(layer.weight)
    weight = layer.weight.detach().clone()
    assert torch.equal(prune_out_channels(layer, GONE).weight, weight[keep(8)])
    assert layer.normalized_shape == (6,)
    assert layer(torch.randn(2, 6)).shape == (2, 6)
    assert prune_out_channels(nn.LayerNorm(8, elementwise_affine=False), [0]).normalized_shape == (
        7,
    )
    group = prune_in_channels(nn.GroupNorm(2, 8), GONE)
    assert (group.num_channels, group.num_groups) == (6, 2)
    assert prune_out_channels(nn.RMSNorm(8), GONE).weight.shape == (6,)


def test_grouped_and_depthwise_convolutions():
    data = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    depthwise = nn.Conv2d(8, 16, 3, groups=8).double()  # two outputs for each input
    small = prune_out_channels(copy.deepcopy(depthwise), [2, 3, 8, 9])
    assert (small.in_channels, small.out_channels, small.groups) == (6, 12, 6)
    expected = take(depthwise(data), 1, keep(16, [2, 3, 8, 9]))
    torch.testing.assert_close(small(take(data, 1, keep(8))), expected)
    grouped = nn.Conv2d(8, 6, 3, groups=2).double()
    small = prune_out_channels(copy.deepcopy(grouped), [0, 5])
    torch.testing.assert_close(small(data), take(grouped(data), 1, [1, 2, 3, 4]))
    zeroed = data.index_fill(1, torch.tensor(GONE), 0)
    small = prune_in_channels(copy.deepcopy(grouped), GONE)
    torch.testing.assert_close(small(take(data, 1, keep(8))), grouped(zeroed))
    transposed = nn.ConvTranspose2d(8, 6, 3, groups=2).double()
    small = prune_out_channels(copy.deepcopy(transposed), [0, 5])
    torch.testing.assert_close(small(data), take(transposed(data), 1, [1, 2, 3, 4]))
    small = prune_in_channels(copy.deepcopy(transposed), GONE)
    torch.testing.assert_close(small(take(data, 1, keep(8))), transposed(zeroed))


@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize('options', [{}, dict(bidirectional=True), dict(num_layers=2)])
def test_recurrent_layers(kind, options):
    layer = kind(6, 8, batch_first=True, **options).double()
    data = torch.randn(2, 5, 6, dtype=torch.float64)
    narrow = prune_in_channels(copy.deepcopy(layer), GONE)
    zeroed = data.index_fill(2, torch.tensor(GONE), 0)
    torch.testing.assert_close(narrow(take(data, 2, keep(6)))[0], layer(zeroed)[0])
    # Units whose fed-back values nobody reads do not change the others.
    units = torch.tensor(GONE)
    directions = 2 if layer.bidirectional else 1
    silenced = copy.deepcopy(layer)
    with torch.no_grad():
        for name, weight in silenced.named_parameters():
            if name.startswith('weight_hh'):
                weight[:, units] = 0
            elif name.startswith('weight_ih') and '_l0' not in name:
                weight.unflatten(1, (directions, -1))[:, :, units] = 0
    small = prune_out_channels(layer, GONE)
    expected = silenced(data)[0].unflatten(2, (directions, 8))[..., keep(8)].flatten(2)
    torch.testing.assert_close(small(data)[0], expected)


@pytest.mark.filterwarnings('ignore:LSTM with projections is not:UserWarning')
@pytest.mark.filterwarnings('ignore:LSTM with projections is not:UserWarning')
def test_projected_and_single_step_recurrences():
    layer = prune_out_channels(nn.LSTM(6, 8, num_layers=2, proj_size=5), [0])
    assert layer(torch.randn(3, 2, 6))[0].shape == (3, 2, 4)
    cell = prune_in_channels(prune_out_channels(nn.GRUCell(6, 8), GONE), GONE)
    assert cell(torch.randn(2, 4)).shape == (2, 6)


def test_other_layers():
    layer = nn.Bilinear(6, 5, 8).double()
    first, second = torch.randn(2, 6).double(), torch.randn(2, 5).double()
    small = prune_out_channels(copy.deepcopy(layer), GONE)
    torch.testing.assert_close(small(first, second), layer(first, second)[:, keep(8)])
    assert prune_in_channels(layer, GONE)(first[:, keep(6)], second).shape == (2, 8)
    words = prune_out_channels(nn.Embedding(10, 8), GONE)
    assert words(torch.tensor([3])).shape == (1, 6)
    slope = nn.PReLU()
    assert prune_out_channels(slope, [3]) is slope


def test_attention_loses_whole_heads():
    layer = nn.MultiheadAttention(12, 3, batch_first=True).double()
    data = torch.randn(2, 4, 12, dtype=torch.float64)
    small = prune_out_channels(copy.deepcopy(layer), [4, 5, 6, 7])
    assert (small.embed_dim, small.num_heads) == (8, 2)
    index = keep(12, [4, 5, 6, 7])
    silenced = copy.deepcopy(layer)
    with torch.no_grad():
        silenced.out_proj.weight[:, 4:8] = 0
        silenced.in_proj_weight[:, 4:8] = 0
    expected = silenced(data, data, data)[0][..., index]
    narrow = take(data, 2, index)
    torch.testing.assert_close(small(narrow, narrow, narrow)[0], expected)
    with pytest.raises(InputError, match='remove whole heads, 4 channels each; it would keep 11'):
        prune_out_channels(layer, [4])


@pytest.mark.parametrize(
    ('layer', 'cut', 'index', 'message'),
    [
        (nn.Conv2d(3, 4, 1), prune_out_channels, [4], 'has no channel 4, only 0 to 3'),
        (nn.Conv2d(3, 4, 1), prune_in_channels, [-1], 'has no channel -1, only 0 to 2'),
        (nn.Conv2d(3, 4, 1), prune_out_channels, [0.5], 'has no channel 0.5'),
        (nn.Linear(3, 4), prune_in_channels, range(3), 'would keep 0 of 3 channels; at least 1'),
        (nn.Conv2d(8, 6, 1, groups=2), prune_out_channels, [0], 'keep between 2 and 3 channels'),
        (nn.Conv2d(8, 6, 1, groups=2), prune_in_channels, [0], 'keep between 3 and 4 channels'),
        (nn.Conv2d(4, 8, 1, groups=4), prune_out_channels, [0], 'goes as a whole, 2 out channels'),
        (nn.GroupNorm(2, 8), prune_out_channels, [0], 'keep between 3 and 4 channels'),
        (nn.LayerNorm((4, 8)), prune_out_channels, [0], 'normalises over 2 dims at once'),
        (nn.Embedding(9, 4), prune_in_channels, [0], 'its inputs are no channels'),
        (nn.ReLU(), prune_out_channels, [0], 'no channels to cut; known types are Conv1d'),
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), prune_out_channels, [0],
            'its weight is computed from other tensors; use pruner.plan',
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_layer_is_refused(layer, cut, index, message):
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(InputError, match=f"layer 'here' .*{message}"):
        cut(layer, index, 'here')
    after = layer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_where_a_network_no_longer_fits():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    data = torch.randn(1, 3, 8, 8)
    prune_out_channels(network[0], GONE)
    with pytest.raises(InputError, match=r"'1' \(BatchNorm2d\): reads 8 channels, but is given 6"):
        check_fits(network, data)
    prune_out_channels(network[1], GONE)
    with pytest.raises(InputError, match=r"'2' \(Conv2d\): reads 8 channels, but is given 6"):
        check_fits(network, data)
    prune_in_channels(network[2], GONE)
    assert check_fits(network, data).shape == (1, 4, 4, 4)
    assert network.training
    assert not network[0]._forward_hooks


def test_a_sum_that_no_longer_fits_names_its_module():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(3, 8)

        def forward(self, data):
            return self.a(data) + self.b(data)

    network = nn.Sequential(Sum())
    prune_out_channels(network[0].a, GONE)
    with pytest.raises(InputError, match=r"'0' \(Sum\): fails on .* must lose the same channels"):
        check_fits(network, torch.randn(1, 3))
