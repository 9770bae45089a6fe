"""What people get wrong on the first day is told in one message that says what there is."""

import numpy as np
import pytest
import torch
from pruned_network import IMAGE, Network, build, prepared
from torch import nn

from mmprune.door import prune
from mmprune.errors import InputError
from mmprune.models import AutoSlim
from mmprune.pruners.budget import check_budget
from mmprune.registry import IMPORTANCE, PRUNERS
from mmprune.trace.demo_images import image_shape

# -- options and names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            dict(type='RatioPruner', ratio=[0.5]),
            r"RatioPruner has no option 'ratio'; did you mean 'ratios'\? It takes ratios, except",
        ),
        (dict(type='RatioPruner'), 'RatioPruner needs ratios; it takes ratios, except_start_keys'),
        (dict(type='ImportancePruner', buget=1), "no option 'buget'; did you mean 'budget'"),
        (
            dict(type='ImportancePruner', colour=1),
            "no option 'colour'; it takes ratio, budget,",
        ),
        (dict(type='NetworkSlimming', ratio=0.5), 'NetworkSlimming sets ratio by itself'),
        (dict(type='RatoPruner', ratios=[1]), "no pruner 'RatoPruner'; did you mean 'RatioPruner'"),
        (dict(type='Magic'), r"no pruner 'Magic'; there are '\w+', "),
        ('RatioPruner', r"pruner: expected a config with a type, dict\(type='...', ...\), found"),
        (dict(ratios=[0.5]), 'pruner: expected a config with a type'),
    ],
)
def test_unknown_pruners_and_options(config, message):
    with pytest.raises(InputError, match=message):
        PRUNERS.build(config)


def test_options_that_a_class_hands_on_are_taken():
    pruner = PRUNERS.build(dict(type='NetworkSlimming', percent=0.25, round_to=4, execution='mask'))
    assert (pruner.percent, pruner.round_to, pruner.execution) == (0.25, 4, 'mask')
    assert IMPORTANCE.build(dict(type='LAMPImportance', members='outputs')).members == 'outputs'


@pytest.mark.parametrize('name', ['L1', 'L1Importance', 'mmprune.L1Importance'])
def test_an_importance_by_its_name(name):
    model, pruner = prepared(importance=name)
    group = pruner.channel_groups['wide']
    expected = IMPORTANCE.build(dict(type='L1Importance')).scores(group, model)
    np.testing.assert_array_equal(pruner.importance.scores(group, model), expected)


# -- shapes and inputs -------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(1, 3, 8, 8), [2, 16], torch.Size([1, 3, 8, 8])])
def test_a_shape_is_no_demo_input(shape):
    sizes = ', '.join(map(str, shape))
    with pytest.raises(InputError, match=rf'looks like a shape, .* torch\.rand\({sizes}\)'):
        build().prepare_from_supernet(Network().double(), shape)


def test_numbers_beside_tensors_are_arguments():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Network()

        def forward(self, times, x):
            return self.network(times * x)

    _, pruner = prepared(Scaled(), (2, IMAGE))
    assert pruner.verify_subnet().ok


@pytest.mark.parametrize(
    ('shape', 'example'),
    [(48, '(1, 3, 48, 48)'), ('48', '(1, 3, 32'), ((48,), '(1, 3, 32'), ((3, 0, 8), '(1, 3, 32')],
)
def test_shapes_that_are_none(shape, example):
    for option in ('input_shape', '--input-shape'):
        with pytest.raises(InputError, match=f'^{option}=.* is no shape: ') as caught:
            image_shape(shape, option)
        assert example in str(caught.value)
    with pytest.raises(InputError, match=r'input_shape=.* is no shape'):
        AutoSlim(nn.Conv2d(3, 8, 3), dict(type='RatioPruner', ratios=[1.0]), input_shape=shape)


def test_shapes_with_a_batch_dim_stay_others_get_one():
    assert image_shape((3, 8, 8)) == (1, 3, 8, 8)
    assert image_shape([2, 3, 4, 8, 8]) == (2, 3, 4, 8, 8)
    assert image_shape((5, 16)) == (5, 16)


def test_a_shape_that_is_left_out_is_said(capsys):
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1))
    AutoSlim(small, dict(type='RatioPruner', ratios=[0.5]))
    assert 'input_shape is left out' in capsys.readouterr().out
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)))
    printed = capsys.readouterr().out
    assert 'demo_input is left out' in printed
    assert '1x3x224x224' in printed


# -- deploying ---------------------------------------------------------------------------


def test_without_a_channel_config_what_is_set_is_deployed():
    model, pruner = prepared()
    pruner.set_subnet(pruner.subnet_of_ratio(0.5))
    small = pruner.deploy_subnet(model)
    torch.testing.assert_close(small(IMAGE), model(IMAGE), rtol=1e-10, atol=1e-12)
    assert small.wide.out_channels == 8
    with pytest.raises(InputError, match='has not prepared the Network: give a channel config'):
        pruner.deploy_subnet(Network())
    with pytest.raises(InputError, match='has not prepared'):
        build().deploy_subnet(Network())


def test_a_subnet_is_no_channel_config():
    model, pruner = prepared()
    with pytest.raises(InputError, match=r'got a subnet, masks of 4 groups, .* set_subnet'):
        pruner.deploy_subnet(model, pruner.sample_subnet())


# -- budgets -----------------------------------------------------------------------------


@pytest.mark.parametrize('key', ['flops', 'FLOPs', 'gflops'])
def test_a_budget_of_flops(key):
    with pytest.raises(InputError, match='one MAC is two FLOPs'):
        check_budget({key: 0.5}, False)


def test_other_budgets_are_told_what_there_is():
    with pytest.raises(InputError, match='keys macs, params, latency') as caught:
        check_budget({'memory': 0.5}, False)
    assert 'FLOP' not in str(caught.value)


# -- networks and inputs that are none ------------------------------------------------------


@pytest.mark.parametrize(
    ('network', 'data', 'limit', 'message'),
    [
        (None, IMAGE, {'ratio': 0.5}, r'a network is a torch\.nn\.Module, found NoneType'),
        (nn.PReLU(3), IMAGE, {'ratio': 0.5}, 'PReLU: has no layer with output channels'),
        (nn.BatchNorm2d(3), IMAGE, {'ratio': 0.5}, 'BatchNorm2d: has no layer with output'),
        (nn.Conv2d(3, 8, 3), IMAGE, {'macs': float('nan')}, 'macs=nan: up to 1 a limit is'),
        (nn.Conv2d(3, 8, 3), IMAGE[:0], {'ratio': 0.5}, 'All outputs are empty'),
        (nn.Conv2d(3, 8, 3), IMAGE * float('nan'), {'ratio': 0.5}, 'The supernet gives NaN'),
    ],
)
def test_what_is_no_network_or_no_input(network, data, limit, message):
    with pytest.raises(InputError, match=message):
        prune(network, data.float(), **limit)


@pytest.mark.parametrize('kind', [torch.tensor, list, lambda x: nn.Parameter(torch.tensor(x))])
def test_scores_of_other_kinds_are_taken(kind):
    expected = np.linspace(0, 1, 16)
    _, pruner = prepared(importance=Given(lambda group: kind(expected[: group.num_channels])))
    subnet = pruner.subnet_of_ratio(0.5)
    assert subnet['wide'].flatten().tolist() == [0.0] * 8 + [1.0] * 8


@pytest.mark.parametrize(
    ('scores', 'message'),
    [
        (
            np.ones((16, 1)),
            r'need as many scores, .* of shape \(16, 1\) and type',
        ),
        (torch.ones(16) * 1j, 'of shape .* and type complex64'),
        (['a'] * 16, 'need as many scores, .* type <U1'),
        (None, 'need as many scores'),
        ([float('nan')] * 3 + [0.0] * 11, '3 of 14 channel scores are NaN or infinite'),
    ],
)
def test_scores_that_are_none(scores, message):
    _, pruner = prepared(importance=Given(lambda group: scores))
    group = pruner.channel_groups['stem']
    for select in (pruner.subnet_of_ratio, lambda _: group.select(scores, 8)):
        with pytest.raises(InputError, match=rf"group '\w+': .*{message}"):
            select(0.5)


class Given:
    """Scores as a user's own criterion gives them."""

    def __init__(self, of):
        self.of = of

    def scores(self, group, model):
        return self.of(group)


def test_counts_and_ratios_that_are_none():
    _, pruner = prepared()
    counts = {space_id: 4 for space_id in pruner.channel_spaces}
    for wrong in (float('nan'), 2.5, '3', -3, None, True):
        with pytest.raises(InputError, match='counts: wide: expected a whole number from 0'):
            pruner.subnet_of_counts({**counts, 'wide': wrong})
    with pytest.raises(InputError, match=r"counts: '\w+' is missing"):
        pruner.subnet_of_counts({'wide': np.int64(4)})
    for wrong in (float('nan'), 0, 'half'):
        with pytest.raises(InputError, match='ratio: expected a number above 0 up to 1'):
            pruner.subnet_of_ratio(wrong)


def test_an_empty_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    batch = (IMAGE[:0].float(), torch.zeros(0).long())
    with pytest.raises(InputError, match='data: batch 0 is empty'):
        prune(network, IMAGE.float(), ratio=np.float64(0.5), data=[batch])


def test_modules_that_are_nested_too_deeply_say_what_helps():
    network = nn.Conv2d(3, 8, 1)
    for _ in range(200):
        network = nn.Sequential(network)
    with pytest.raises(InputError, match=r'nested deeper than .* sys\.setrecursionlimit'):
        prune(network, IMAGE.float(), ratio=0.5)


class MadeLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), None

    def forward(self, x):
        if self.second is None:
            self.second = nn.Conv2d(8, 4, 1)
        return self.second(self.first(x))


def test_parameters_that_are_made_by_the_first_run():
    network = MadeLate()
    with pytest.raises(InputError, match=r"'second\.\w+' is made by the first run: run"):
        prune(network, IMAGE.float(), ratio=0.5)
    assert network.second is None
    network(IMAGE.float())
    assert prune(network, IMAGE.float(), ratio=0.5).network.first.out_channels == 4


def test_what_is_nan_in_both_networks_is_no_difference():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    network.register_buffer('best_so_far', torch.tensor(float('nan')))
    assert prune(network, IMAGE.float(), ratio=0.5).network[0].out_channels == 4
