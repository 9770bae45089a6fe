"""The pruner's public names: every method and its documented result."""

import gc
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from randomised import randomise, scattered
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.deploy import VerifyReport, save_channel_cfg
from mmprune.errors import InputError
from mmprune.pruners import RatioPruner, StructurePruner, SubnetError
from mmprune.registry import PRUNERS
from mmprune.trace import TraceError

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Network(nn.Module):
    """A residual sum, a concatenation, grouped and depthwise convolutions, three kinds of norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = conv(3, 8), nn.BatchNorm2d(8)
        self.left, self.right, self.both_norm = conv(8, 6), conv(8, 8), nn.BatchNorm2d(14)
        self.grouped, self.group_norm = conv(14, 12, groups=2), nn.GroupNorm(4, 12)
        self.wide, self.deep = conv(12, 16), conv(16, 16, groups=16)
        self.fc, self.layer_norm, self.head = nn.Linear(16, 10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = torch.cat([self.left(x), x + self.right(x)], 1)
        x = F.relu(self.group_norm(self.grouped(F.relu(self.both_norm(x)))))
        x = self.deep(self.wide(x)).mean((2, 3))
        return self.head(F.relu(self.layer_norm(self.fc(x))))


GROUPS = {'stem': 14, 'grouped': 12, 'wide': 16, 'fc': 10}


def build(**kwargs):
    return PRUNERS.build(dict(type='RatioPruner', ratios=[0.25, 0.5, 0.75, 1.0]) | kwargs)


def prepared(model=None, data=IMAGE, **kwargs):
    model = randomise((Network() if model is None else model).double()).eval()
    pruner = build(**kwargs)
    assert pruner.prepare_from_supernet(model, data) is None
    return model, pruner


def counts(subnet):
    return {space_id: int(mask.sum()) for space_id, mask in subnet.items()}


def kept(subnet):
    return {space_id: mask.flatten().tolist() for space_id, mask in subnet.items()}


# -- results ---------------------------------------------------------------------------


def test_channel_spaces_are_the_prunable_groups():
    _, pruner = prepared()
    assert {s: mask.numel() for s, mask in pruner.channel_spaces.items()} == GROUPS
    assert all((mask == 1).all() for mask in pruner.channel_spaces.values())
    assert pruner.channel_spaces['stem'].shape == (1, 14, 1, 1)
    assert pruner.channel_spaces['fc'].shape == (1, 10)
    assert pruner.channel_groups.keys() == GROUPS.keys() | {'head', 'stem.weight'}
    for space_id, group in pruner.channel_groups.items():
        assert isinstance(group, ChannelGroup)
        assert group.prunable == (space_id in GROUPS)
        assert bool(group.reason) == (not group.prunable)
        assert group.space_id == space_id
    assert pruner.channel_groups['head'].reason == 'output of the network'


def test_methods_give_what_they_promise(tmp_path):
    model, pruner = prepared()
    subnet = pruner.sample_subnet()
    assert subnet.keys() == pruner.channel_spaces.keys()
    for space_id, mask in subnet.items():
        assert isinstance(mask, torch.Tensor)
        assert mask.dtype == torch.float32
        assert mask.shape == pruner.channel_spaces[space_id].shape
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert pruner.set_max_channel() is None
    assert pruner.set_min_channel() is None
    assert pruner.set_subnet(subnet) is None
    assert kept(pruner.current_subnet()) == kept(subnet)
    assert kept(pruner.channel_spaces) == kept(subnet)
    cfg = pruner.export_subnet()
    assert isinstance(cfg, dict)
    assert kept(pruner.load_channel_cfg(cfg)) == kept(subnet)
    deployed = pruner.deploy_subnet(model, cfg)
    assert type(deployed) is Network
    assert deployed is not model
    report = pruner.verify_subnet(model, subnet)
    assert isinstance(report, VerifyReport)
    assert (report.ok, report.first_diverging_module) == (True, '')
    assert report.max_rel_err < 1e-10
    cost = pruner.cost(subnet)
    assert cost == pruner.cost()
    assert cost['params'] == sum(p.numel() for p in deployed.parameters())
    assert type(cost['macs']) is int
    bins = pruner.get_max_channel_bins(4)
    assert {s: bin_.tolist() for s, bin_ in bins.items()} == {s: [1.0] * 4 for s in GROUPS}
    assert pruner.set_channel_bins(bins, 4) is None
    assert counts(pruner.current_subnet()) == GROUPS
    save_channel_cfg(cfg, tmp_path / 'subnet.yaml')
    assert pruner.switch_subnet(tmp_path / 'subnet.yaml') is None
    assert kept(pruner.current_subnet()) == kept(subnet)


@pytest.mark.parametrize(
    ('layer', 'in_shape', 'out_shape'),
    [
        ('stem', (1, 3, 1, 1), (1, 8, 1, 1)),
        ('stem_norm', None, (1, 8, 1, 1)),
        ('both_norm', None, (1, 14, 1, 1)),
        ('grouped', (1, 14, 1, 1), (1, 12, 1, 1)),
        ('group_norm', None, (1, 12, 1, 1)),
        ('deep', (1, 16, 1, 1), (1, 16, 1, 1)),
        ('fc', (1, 16), (1, 10)),
        ('layer_norm', None, (1, 10)),
        ('head', (1, 10), (1, 4)),
    ],
)
def test_masks_have_the_shapes_of_mmrazor(layer, in_shape, out_shape):
    model, pruner = prepared()
    module = model.get_submodule(layer)
    assert module.out_mask.shape == out_shape
    if in_shape is not None:
        assert module.in_mask.shape == in_shape
    else:
        assert not hasattr(module, 'in_mask')
    pruner.set_min_channel()
    assert int(module.out_mask.sum()) == pruner.export_subnet()[layer]['out_channels']
    assert 'out_mask' in dict(module.named_buffers())


def test_masks_of_other_ranks():
    class Ranks(nn.Module):
        def __init__(self):
            super().__init__()
            self.three, self.norm3 = nn.Conv3d(1, 6, 1), nn.BatchNorm3d(6)
            self.one, self.norm1, self.last = (
                nn.Conv1d(6, 4, 1),
                nn.BatchNorm1d(4),
                nn.Conv1d(4, 2, 1),
            )

        def forward(self, x):
            x = self.norm3(self.three(x)).flatten(2)
            return self.last(self.norm1(self.one(x)))

    model, pruner = prepared(Ranks(), IMAGE[:, None, :1, :2, :4])
    shapes = {name: tuple(m.out_mask.shape) for name, m in model.named_children()}
    assert shapes['three'] == shapes['norm3'] == (1, 6, 1, 1, 1)
    assert shapes['one'] == (1, 4, 1)
    assert shapes['norm1'] == (1, 4)
    assert pruner.channel_spaces['one'].shape == (1, 4, 1)
    assert pruner.verify_subnet(model).ok


def test_what_is_returned_is_a_copy():
    model, pruner = prepared()
    expected = model(IMAGE)
    for subnet in (pruner.channel_spaces, pruner.current_subnet(), pruner.sample_subnet()):
        for mask in subnet.values():
            mask.zero_()
    assert counts(pruner.current_subnet()) == GROUPS
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    inside = model(IMAGE)
    for mask in subnet.values():
        mask.fill_(1)
    assert torch.equal(model(IMAGE), inside)
    pruner.set_max_channel()
    assert torch.equal(model(IMAGE), expected)


def test_masks_may_come_as_any_type_of_number():
    _, pruner = prepared()
    subnet = scattered(pruner)
    for convert in (torch.Tensor.bool, torch.Tensor.long, torch.Tensor.double):
        pruner.set_max_channel()
        pruner.set_subnet({space_id: convert(mask) for space_id, mask in subnet.items()})
        assert kept(pruner.current_subnet()) == kept(subnet)


# -- sampling --------------------------------------------------------------------------


@pytest.mark.parametrize('importance', [None, 'RandomImportance', 'L1Importance'])
def test_samples_are_valid_and_between_the_smallest_and_the_largest(importance):
    model, pruner = prepared(importance=importance and dict(type=importance))
    pruner.set_min_channel()
    smallest = counts(pruner.current_subnet())
    assert smallest == {'stem': 4, 'grouped': 4, 'wide': 4, 'fc': 3}
    seen = {space_id: set() for space_id in GROUPS}
    for _ in range(200):
        subnet = pruner.sample_subnet()
        for space_id, group in pruner.channel_groups.items():
            if group.prunable:
                mask = subnet[space_id].numpy().ravel().astype(bool)
                assert group.problem_with(mask) == ''
                seen[space_id].add(int(mask.sum()))
        pruner.set_subnet(subnet)
    assert model(IMAGE).shape == (2, 4)
    for space_id, found in seen.items():
        assert min(found) == smallest[space_id]
        assert max(found) == GROUPS[space_id]
        assert len(found) >= 3


def test_a_group_with_constraints_keeps_equally_many_in_every_block():
    model, pruner = prepared()
    blocks = pruner.channel_groups['grouped'].constraints
    assert {len(c.blocks) for c in blocks} >= {4}  # the four blocks of the GroupNorm
    for _ in range(50):
        pruner.set_subnet(pruner.sample_subnet())
        normed = model.group_norm.out_mask.reshape(4, 3).sum(1)
        convolved = model.grouped.out_mask.reshape(2, 6).sum(1)
        read = model.grouped.in_mask.reshape(2, 7).sum(1)
        assert len(set(normed.tolist())) == 1
        assert convolved[0] == convolved[1]
        assert read[0] == read[1] >= 1


def test_sampling_depends_on_numpys_seed_alone():
    _, pruner = prepared()
    draws = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        np.random.seed(seed)
        torch.manual_seed(other)
        draws.append([kept(pruner.sample_subnet()) for _ in range(3)])
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0][0] != draws[0][1]


def test_sampling_sets_nothing():
    _, pruner = prepared()
    pruner.sample_subnet()
    assert counts(pruner.current_subnet()) == GROUPS


@pytest.mark.parametrize('ratios', [[0.0, 1.0], [1.01], [-0.5], [], [float('nan')], 0.5, '0.5'])
def test_ratios_that_make_no_sense_are_refused(ratios):
    with pytest.raises(InputError, match='above 0 and at most 1'):
        RatioPruner(ratios=ratios)


def test_ratios_keep_the_first_channels_rounded():
    model = nn.Sequential(conv(3, 10), conv(10, 7), conv(7, 4))
    _, pruner = prepared(model, ratios=[0.01, 0.24, 0.25, 1 / 3, 0.5])
    for ratio, expected in ((0.01, (1, 1)), (0.24, (2, 2)), (0.26, (3, 2)), (0.5, (5, 4))):
        subnet = pruner.subnet_of_ratio(ratio)
        assert tuple(counts(subnet).values()) == expected
        for mask in subnet.values():
            flat = mask.flatten().tolist()
            assert flat == sorted(flat, reverse=True)


def test_the_importance_decides_which_channels_stay():
    model, _ = prepared()
    with torch.no_grad():
        model.fc.weight[[1, 4, 7]] *= 100
    for importance, expected in ((None, [0, 1, 2]), (dict(type='L1Importance'), [1, 4, 7])):
        pruner = build(importance=importance)
        pruner.prepare_from_supernet(model, IMAGE)
        mask = pruner.subnet_of_ratio(0.3)['fc'].flatten()
        assert mask.nonzero().flatten().tolist() == expected


def test_a_network_with_nothing_to_prune():
    model, pruner = prepared(nn.Sequential(conv(3, 4)))
    assert pruner.channel_spaces == pruner.sample_subnet() == {}
    pruner.set_subnet({})
    pruner.set_min_channel()
    assert pruner.verify_subnet(model).ok
    assert '0 of ' in pruner.report()


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
from test_structure_pruner import Network, build
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


def test_except_start_keys_pin_by_prefix():
    model, pruner = prepared(except_start_keys=['wi', 'fc'])
    assert list(pruner.channel_spaces) == ['stem', 'grouped']
    assert pruner.channel_groups['wide'].reason == "excluded by except_start_keys 'wi'"
    assert pruner.channel_groups['fc'].reason == "excluded by except_start_keys 'fc'"
    pruner.set_min_channel()
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert (deployed.wide.out_channels, deployed.fc.out_features) == (16, 10)
    assert deployed.wide.in_channels == 4
    with pytest.raises(SubnetError, match=r"'wide' is pinned \(excluded by except_start_keys 'wi'"):
        pruner.set_subnet({s: torch.ones(n) for s, n in GROUPS.items()})


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


# -- bins and several configs ----------------------------------------------------------


def test_bins_keep_their_share_of_every_group():
    _, pruner = prepared()
    bins = pruner.get_max_channel_bins(12)
    bins['wide'][3:] = 0
    bins['fc'][1:] = 0
    pruner.set_channel_bins(bins, 12)
    assert counts(pruner.current_subnet()) == {'stem': 14, 'grouped': 12, 'wide': 4, 'fc': 1}
    bins['wide'][:] = 0  # never empty
    assert counts(pruner.bins_to_subnet(bins, 12))['wide'] == 1
    assert counts(pruner.current_subnet())['wide'] == 4


def test_wrong_bins_are_refused():
    _, pruner = prepared()
    with pytest.raises(InputError, match='at least 1 bin'):
        pruner.get_max_channel_bins(0)
    bins = pruner.get_max_channel_bins(3)
    with pytest.raises(InputError, match="'stem': expected 4 bins, found 3"):
        pruner.set_channel_bins(bins, 4)
    del bins['wide']
    with pytest.raises(InputError, match="'wide': expected 3 bins, found none"):
        pruner.set_channel_bins(bins, 3)
    assert counts(pruner.current_subnet()) == GROUPS


def test_switch_subnet_takes_one_config_or_one_of_several():
    model, pruner = prepared()
    subnets, cfgs, outputs = [], [], []
    for seed in range(3):
        subnets.append(scattered(pruner, seed))
        pruner.set_subnet(subnets[-1])
        cfgs.append(pruner.export_subnet())
        outputs.append(model(IMAGE))
    for index in (2, 0, 1):
        pruner.switch_subnet(cfgs, index)
        assert kept(pruner.current_subnet()) == kept(subnets[index])
        assert torch.equal(model(IMAGE), outputs[index])
    pruner.switch_subnet(cfgs)
    assert kept(pruner.current_subnet()) == kept(subnets[0])
    pruner.switch_subnet(cfgs[1])
    assert kept(pruner.current_subnet()) == kept(subnets[1])
    for index in (3, -1):
        with pytest.raises(InputError, match=f'no subnet {index}: there are 3 channel configs'):
            pruner.switch_subnet(cfgs, index)
    with pytest.raises(InputError, match='there are 0'):
        pruner.switch_subnet([])
    assert kept(pruner.current_subnet()) == kept(subnets[1])


# -- the report ------------------------------------------------------------------------


def test_the_report_says_what_can_be_pruned_and_what_it_brings():
    model, pruner = prepared()
    text = pruner.report()
    rows = {line.split('│')[1].strip(): line for line in text.splitlines() if line.count('│') == 6}
    assert rows.keys() >= pruner.channel_groups.keys()
    assert 'no: output of the network' in rows['head']
    assert [cell.strip() for cell in rows['stem'].split('│')[2:3]] == ['14']
    assert 'yes' in rows['fc']
    assert 'group_norm has 4' in text
    assert '4 of 6 groups are prunable' in text
    assert 'pinned: 1 group, 4 channels: output of the network' in text
    params = sum(p.numel() for p in model.parameters())
    assert f'{params:,} (100.0%)' in text
    assert 'half of every prunable group' in text
    assert 'subnet that is set' not in text
    pruner.set_min_channel()
    text = pruner.report()
    assert '4 of 16' in text
    assert f'{pruner.cost()["params"]:,} ' in text.split('subnet that is set')[1]
    assert f'{pruner.cost()["macs"]:,} ' in text.split('subnet that is set')[1]
    assert all(len(line) <= 140 for line in text.splitlines())


# -- preparing again -------------------------------------------------------------------


def plain_state(model):
    return {k: v.clone() for k, v in model.state_dict().items() if not k.endswith('_mask')}


def test_preparing_twice_gives_the_same_and_starts_at_full_width():
    model, pruner = prepared()
    expected, state = model(IMAGE), plain_state(model)
    groups = {s: str(group) for s, group in pruner.channel_groups.items()}
    for subnet in (scattered(pruner), pruner.sample_subnet()):
        pruner.set_subnet(subnet)
        pruner.prepare_from_supernet(model, IMAGE)
        assert {s: str(group) for s, group in pruner.channel_groups.items()} == groups
        assert counts(pruner.current_subnet()) == GROUPS
        assert all((v == 1).all() for k, v in model.state_dict().items() if k.endswith('_mask'))
        assert torch.equal(model(IMAGE), expected)
        for name, value in plain_state(model).items():
            assert torch.equal(value, state[name]), name
    assert (model.stem.out_channels, model.deep.groups) == (8, 16)
    hooks = len(model._load_state_dict_pre_hooks), len(model._load_state_dict_post_hooks)
    assert hooks == (1, 1)
    pruner.set_subnet(scattered(pruner))
    assert pruner.verify_subnet(model).ok


def test_the_pruner_that_prepared_last_is_the_one_that_counts():
    model, first = prepared()
    first.set_min_channel()
    second = build(execution='mask')
    second.prepare_from_supernet(model, IMAGE)
    subnet = scattered(second)
    second.set_subnet(subnet)
    inside = model(IMAGE)
    for change in (first.set_max_channel, first.set_min_channel, lambda: first.set_subnet(subnet)):
        with pytest.raises(RuntimeError, match='Network has been prepared again'):
            change()
    assert kept(second.current_subnet()) == kept(subnet)
    assert torch.equal(model(IMAGE), inside)
    model.load_state_dict(model.state_dict())
    assert kept(second.current_subnet()) == kept(subnet)
    first.prepare_from_supernet(model, IMAGE)
    first.set_min_channel()
    with pytest.raises(RuntimeError, match='prepared again'):
        second.set_max_channel()


def test_a_failed_second_preparation_leaves_the_first_one_in_place():
    model, pruner = prepared()
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    expected = model(IMAGE)
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    for data in (IMAGE[:, :2], IMAGE.float()):
        for again in (pruner, build()):
            with pytest.raises(TraceError, match="in module 'stem'"):
                again.prepare_from_supernet(model, data)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == names
    assert kept(pruner.current_subnet()) == kept(subnet)
    assert torch.equal(model(IMAGE), expected)
    pruner.set_max_channel()
    model.load_state_dict(model.state_dict())
    assert counts(pruner.current_subnet()) == GROUPS
    assert pruner.verify_subnet(model).ok


def test_a_mask_name_that_is_taken_is_refused_and_nothing_is_left_behind():
    model = Network().double()
    model.wide.out_mask = 'mine'
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(InputError, match=r"'wide' has an attribute 'out_mask' of its own.*rename"):
        build().prepare_from_supernet(model, IMAGE)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(name.endswith('_mask') for name in model.state_dict())


def test_methods_before_preparing_say_what_to_do():
    pruner = build()
    for use in (pruner.sample_subnet, pruner.set_max_channel, pruner.export_subnet, pruner.report):
        with pytest.raises(RuntimeError, match=r'RatioPruner .* prepare_from_supernet\(model'):
            use()


def test_verifying_leaves_the_supernet_as_it_was():
    model, pruner = prepared()
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    model.train()
    model.stem_norm.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    for other in (None, scattered(pruner, seed=5)):
        assert pruner.verify_subnet(model, other).ok
    assert kept(pruner.current_subnet()) == kept(subnet)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(InputError, match='not the one that was prepared'):
        pruner.verify_subnet(Network())


# -- wrappers --------------------------------------------------------------------------


class Algorithm(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        self.architecture = architecture

    def forward(self, x):
        return self.architecture(x)


WRAPPERS = {
    'algorithm': Algorithm,
    'data parallel': lambda model: nn.DataParallel(model, device_ids=[]),
    'data parallel of an algorithm': lambda model: nn.DataParallel(Algorithm(model)),
    'compiled': lambda model: torch.compile(model, backend='eager'),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_names_are_relative_to_the_wrapped_network(wrapper):
    network = randomise(Network().double()).eval()
    wrapped = WRAPPERS[wrapper](network)
    pruner = build()
    pruner.prepare_from_supernet(wrapped, IMAGE)
    assert pruner.channel_spaces.keys() == GROUPS.keys()
    pruner.set_subnet(scattered(pruner))
    cfg = pruner.export_subnet()
    assert 'stem' in cfg
    for model in (wrapped, network):
        deployed = pruner.deploy_subnet(model, cfg)
        assert type(deployed) is Network
        torch.testing.assert_close(deployed(IMAGE), network(IMAGE), rtol=1e-10, atol=1e-12)
        assert pruner.verify_subnet(model).ok


def test_without_a_demo_input_an_image_is_used_and_no_random_number():
    model = nn.Sequential(conv(3, 4), nn.AdaptiveAvgPool2d(1), conv(4, 2, 1)).double()
    before = torch.get_rng_state()
    pruner = build()
    pruner.prepare_from_supernet(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert pruner.supernet.demo_input.shape == (1, 3, 224, 224)
    assert pruner.cost()['macs'] == 224 * 224 * 3 * 4 * 9 + 4 * 2


def test_one_can_write_a_pruner_of_ones_own():
    with pytest.raises(TypeError, match='abstract'):
        StructurePruner()

    @PRUNERS.register_module(force=True)
    class HalfPruner(StructurePruner):
        """Half of everything."""

        def sample_subnet(self):
            groups = self.channel_groups.items()
            return self.subnet_of_counts({s: g.num_channels // 2 for s, g in groups if g.prunable})

        def set_min_channel(self):
            self.set_subnet(self.sample_subnet())

    try:
        pruner = PRUNERS.build(dict(type='HalfPruner', execution='mask'))
        model = randomise(Network().double()).eval()
        pruner.prepare_from_supernet(model, IMAGE)
        pruner.set_min_channel()
        assert counts(pruner.current_subnet())['wide'] == 8
        assert pruner.verify_subnet(model, pruner.sample_subnet()).ok
    finally:
        PRUNERS.module_dict.pop('HalfPruner')


# -- two executions, one semantics -----------------------------------------------------


def test_both_executions_leave_the_same_supernet_after_training():
    """Also what the subnets do not have: running statistics of channels that are not there."""
    states = []
    for execution in ('slice', 'mask'):
        model, pruner = prepared(execution=execution)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-2)
        for seed in range(4):
            pruner.set_subnet(scattered(pruner, seed))
            optimizer.zero_grad()
            model(IMAGE).square().mean().backward()
            optimizer.step()
        pruner.set_max_channel()
        states.append(model.state_dict() | {'out': model.eval()(IMAGE).detach()})
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_statistics_of_channels_that_a_subnet_lacks_are_kept(execution):
    model, pruner = prepared(execution=execution)
    subnet = scattered(pruner)
    before = model.stem_norm.running_mean.clone()
    pruner.set_subnet(subnet)
    model.train()(IMAGE)
    lost = model.stem_norm.out_mask.flatten() == 0
    assert lost.any()
    assert not lost.all()
    assert torch.equal(model.stem_norm.running_mean[lost], before[lost])
    assert (model.stem_norm.running_mean[~lost] != before[~lost]).all()
