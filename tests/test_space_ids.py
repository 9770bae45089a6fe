"""Names of groups: stable, found by layer, pinned and tied by the user."""

import gc
import json
import os
import subprocess
import sys

import pytest
import torch
from pruned_network import GROUPS, Network, conv, prepared
from torch import nn

from mmprune.errors import InputError
from mmprune.pruners import SubnetError

# -- names -----------------------------------------------------------------------------


def test_space_ids_do_not_depend_on_memory_or_on_what_happened_before():
    _, pruner = prepared()
    expected = {s: str(group) for s, group in pruner.channel_groups.items()}
    ballast = []
    for round_ in range(5):
        ballast.append([nn.Conv2d(3, 3 + round_, 3) for _ in range(50 * round_)])
        model = Network()
        if round_ % 2:
            ballast.clear()
            gc.collect()
        _, other = prepared(model)
        assert {s: str(group) for s, group in other.channel_groups.items()} == expected
        assert list(other.channel_groups) == list(pruner.channel_groups)


IN_A_PROCESS = """
import json, torch
from pruned_network import Network, build
pruner = build()
pruner.prepare_from_supernet(Network().eval(), torch.rand(1, 3, 8, 8))
layers = {s: [g.num_channels, *g.layers] for s, g in pruner.channel_groups.items()}
print(json.dumps(layers))
"""


def test_space_ids_are_the_same_in_every_process():
    runs = []
    for hash_seed in ('0', '12345'):
        paths = [os.path.dirname(__file__), *sys.path]
        environment = dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=os.pathsep.join(paths))
        command = [sys.executable, '-W', 'ignore', '-c', IN_A_PROCESS]
        runs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    found = [run.communicate()[0].splitlines()[-1] for run in runs]
    assert found[0] == found[1]
    assert json.loads(found[0])['wide'] == [16, 'wide', 'deep']


def test_get_space_id():
    _, pruner = prepared()
    assert pruner.get_space_id('stem') == 'stem'
    assert pruner.get_space_id('stem_norm') == 'stem'
    assert pruner.get_space_id('right') == 'stem'  # they are added
    assert pruner.get_space_id('deep') == 'wide'
    assert pruner.get_space_id('head') is None
    for missing in ('nothing', '', 'stem.weight', 'architecture.stem'):
        with pytest.raises(KeyError, match='no traced layer'):
            pruner.get_space_id(missing)
    pruner.set_min_channel()
    assert pruner.get_space_id('stem') == 'stem'


def test_get_space_id_of_a_concatenation():
    class Concatenation(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.c = (
                conv(3, 8),
                conv(3, 6),
                nn.BatchNorm2d(14),
                conv(14, 4),
            )

        def forward(self, x):
            return self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    _, pruner = prepared(Concatenation())
    assert pruner.get_space_id('norm') == {'concat': ['a', 'b']}
    assert pruner.get_space_id('a') == 'a'
    assert pruner.get_space_id('c') is None


def test_except_start_keys_pin_layers():
    model, pruner = prepared(except_start_keys=['wide', 'fc'])
    assert list(pruner.channel_spaces) == ['stem', 'grouped']
    assert pruner.channel_groups['wide'].reason == "excluded by except_start_keys 'wide'"
    assert pruner.channel_groups['fc'].reason == "excluded by except_start_keys 'fc'"
    pruner.set_min_channel()
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert (deployed.wide.out_channels, deployed.fc.out_features) == (16, 10)
    assert deployed.wide.in_channels == 4
    with pytest.raises(
        SubnetError, match=r"'wide' is pinned \(excluded by except_start_keys 'wide'"
    ):
        pruner.set_subnet({s: torch.ones(n) for s, n in GROUPS.items()})


class Stages(nn.Module):
    """Names that begin alike, a module without parameters, and one that does not run."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.stage1 = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.stage10 = nn.Sequential(conv(8, 8), nn.ReLU())
        self.relu = nn.ReLU()
        self.last, self.auxiliary = conv(8, 4), conv(8, 2)
        self.shared = self.stage10

    def forward(self, x):
        return self.last(self.relu(self.shared(self.stage1(x) * self.scale)))


@pytest.mark.parametrize(
    ('keys', 'kept'),
    [
        (['stage1'], ['stage10.0']),
        (['stage1.'], ['stage10.0']),
        (['stage1.1'], ['stage10.0']),
        (['stage10'], ['stage1.0']),
        (['shared'], ['stage1.0']),
        (['scale'], ['stage10.0']),
        (['auxiliary'], ['stage1.0', 'stage10.0']),
        (['stage1', 'shared.0'], []),
        ([''], []),
    ],
)
def test_except_start_keys_match_at_dots(keys, kept):
    _, pruner = prepared(Stages(), except_start_keys=keys)
    assert list(pruner.channel_spaces) == kept


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('stage', r"'stage' names no part .*; did you mean 'stage1'"),
        ('stage1.o', r"'stage1.o' names no part .*; did you mean .*'stage1\.0'"),
        ('architecture.last', r"'architecture.last' names no part .*; there are 'stage1\.0'"),
        ('relu', "'relu' holds no layer that makes channels; "),
        ('stage1.2', r"'stage1.2' holds no layer that makes channels; did you mean .*'stage1\.0'"),
    ],
)
def test_except_start_keys_that_match_nothing_are_refused(key, message):
    model = Stages()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(InputError, match=f'except_start_keys: {message}'):
        prepared(model, except_start_keys=['last', key])
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not any('forward' in vars(module) for module in model.modules())


def test_a_member_in_except_start_keys_pins_its_whole_group():
    _, pruner = prepared(except_start_keys=['deep'])
    assert 'wide' not in pruner.channel_spaces
    assert 'deep' in pruner.channel_groups['wide'].reason


def test_ties_prune_layers_alike():
    class TwoBranches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = conv(3, 8), conv(3, 8), conv(8, 4), conv(8, 4)
            self.other = conv(3, 6)

        def forward(self, x):
            return self.c(self.a(x)), self.d(self.b(x)), self.other(x)

    _, pruner = prepared(TwoBranches())
    assert list(pruner.channel_spaces) == ['a', 'b']
    model, pruner = prepared(TwoBranches(), ties=[('a', 'b')])
    assert list(pruner.channel_spaces) == ['a']
    assert pruner.channel_groups['a'].layers == ('a', 'b')
    assert pruner.verify_subnet(model).ok
    with pytest.raises(InputError, match="'nothing'"):
        prepared(TwoBranches(), ties=[('a', 'nothing')])
    with pytest.raises(InputError, match=r'\[8, 6\] output channels'):
        prepared(TwoBranches(), ties=[('a', 'other')])
