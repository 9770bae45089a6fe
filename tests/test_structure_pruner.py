"""The pruner's public names: every method and its documented result."""

import numpy as np
import pytest
import torch
from pruned_network import GROUPS, IMAGE, Network, build, conv, counts, kept, prepared
from randomised import scattered
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.deploy import ChannelCfgError, VerifyReport, save_channel_cfg
from mmprune.errors import InputError
from mmprune.pruners import RatioPruner

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
    with pytest.raises(InputError, match='ratios: '):
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
    with pytest.raises(InputError, match='max_channel_bins: expected a whole number from 1'):
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


def test_a_config_that_was_changed_after_its_export_is_checked_and_read():
    model, pruner = prepared()
    pruner.set_min_channel()
    cfg = pruner.export_subnet()
    expected = {name: p.shape for name, p in pruner.deploy_subnet(model, cfg).named_parameters()}
    pruner.set_max_channel()
    full = pruner.export_subnet()
    # What was exported before is still what it says, and not what is set or was exported last.
    deployed = pruner.deploy_subnet(model, cfg)
    assert {name: p.shape for name, p in deployed.named_parameters()} == expected
    full['stem'] = cfg['stem']
    with pytest.raises(ChannelCfgError, match='must keep the same channels'):
        pruner.deploy_subnet(model, full)
    full = pruner.export_subnet()
    full['stem']['out_channels'] = True
    with pytest.raises(ChannelCfgError, match='stem'):
        pruner.deploy_subnet(model, full)
    full = pruner.export_subnet()
    del full['stem']
    with pytest.raises(ChannelCfgError, match='lists 11 layers'):
        pruner.deploy_subnet(model, full)


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


def test_no_layer_is_left_without_channels():
    """14 channels are one group, of which the left layer has 6: not all of the 6 may go."""
    network, pruner = prepared()
    group = pruner.channel_groups['stem']
    (left,) = (channels for name, channels in group.parts if name.startswith('left.'))
    assert len(left) == 6
    for count in (1, 2, 3):
        scores = np.arange(14.0)
        scores[left] -= 100
        assert not group.problem_with(group.select(scores, count))
    mask = np.ones(14)
    mask[left] = 0
    masks = {**pruner.channel_spaces, 'stem': torch.from_numpy(mask)}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"'stem'.* none of the 6 channels of left."):
        pruner.set_subnet(masks)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
