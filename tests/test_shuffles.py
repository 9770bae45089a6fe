"""Channels behind shuffles: which can be kept, and in which order they stand."""

import copy

import numpy as np
import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from toy_checks import assert_exact, prepared
from toys_shuffles import (
    NormOfShuffled,
    ShuffledBesideOthers,
    ShuffleOfFourGroups,
    StageOfShuffleNetV2,
    StreamsThatWeighEachOther,
    UnevenChunkOfShuffled,
    UnitOfShuffleNetV1,
    shuffled,
)

from mmprune.channels.arrangement import Arrangement
from mmprune.channels.steps import NoSuchWidthError, Step, run_steps
from mmprune.deploy import load_channel_cfg, save_channel_cfg
from mmprune.layers import grouped_cut, turned_cuts
from mmprune.registry import PRUNERS
from mmprune.supernet.supernet import SubnetError

SHUFFLED = [
    (StageOfShuffleNetV2, 'left'),
    (UnitOfShuffleNetV1, 'compress'),
    (ShuffleOfFourGroups, 'a'),
    (UnevenChunkOfShuffled, 'a'),
    (NormOfShuffled, 'a'),
    (ShuffledBesideOthers, 'a'),
    (StreamsThatWeighEachOther, 'c'),
]


def outputs(model, data):
    with torch.no_grad():
        return model(data)


# -- which channels --------------------------------------------------------------------


@pytest.mark.parametrize(('toy', 'space_id'), SHUFFLED)
def test_every_width_that_the_group_offers_is_exact(toy, space_id):
    """Widths, not only halves: all that the group says it has, with any channels of each."""
    model, _, pruner = prepared(toy)
    arrangement = pruner.channel_groups[space_id].arrangement
    steps = [s for s in range(1, arrangement.most) if arrangement.dealt(s) is not None]
    assert len(steps) >= 3
    for step in steps:
        subnet = scattered(pruner, step, step / arrangement.most)
        assert int(subnet[space_id].sum()) == step * arrangement.each
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, (step, report)


def test_a_stage_keeps_any_channels_that_go_the_same_way():
    """Of every kind any of its channels may stay: far more choices than halves of the stage."""
    _, _, pruner = prepared(StageOfShuffleNetV2)
    group = pruner.channel_groups['left']
    masks = {
        group.select(np.random.default_rng(seed).random(36), 20).tobytes() for seed in range(50)
    }
    assert len(masks) == 50
    kept = np.mean([np.frombuffer(mask, bool) for mask in masks], axis=0)
    assert (kept > 0).all(), 'every channel stays in some subnet'
    assert (kept < 1).mean() > 0.7


def test_the_best_channels_of_a_kind_are_kept():
    _, _, pruner = prepared(UnitOfShuffleNetV1)
    group = pruner.channel_groups['compress']
    scores = np.random.default_rng(0).random(24)
    mask = group.select(scores, 12)
    kinds = group.arrangement._full[2]
    for kind in np.unique(kinds):
        own = kinds == kind
        assert scores[own & mask].min() > scores[own & ~mask].max(initial=-1)


def test_choices_that_no_small_network_has_are_refused_with_the_numbers():
    _, _, pruner = prepared(StageOfShuffleNetV2)
    subnet = pruner.current_subnet()
    mask = torch.ones_like(subnet['left'])
    mask.view(-1)[:3] = 0
    with pytest.raises(SubnetError, match='keeps 33 of 36 channels; 32 or 36 can be kept'):
        pruner.set_subnet({**subnet, 'left': mask})
    mask = torch.ones_like(mask)
    mask.view(-1)[[0, 1, 2, 3]] = 0
    with pytest.raises(SubnetError, match=r'of 32 channels \d of them must stay'):
        pruner.set_subnet({**subnet, 'left': mask})
    assert all(bool(m.all()) for m in pruner.current_subnet().values())


def test_widths_are_rounded_and_binned():
    """Each of the four layers of the stage has a multiple, or all of its nine channels."""
    for round_to, widths in ((2, (8, 16, 24, 32, 36)), (8, (32, 32, 32, 32, 36))):
        _, _, pruner = prepared(StageOfShuffleNetV2, round_to=round_to)
        for count, expected in zip((1, 15, 20, 33, 36), widths, strict=True):
            counts = {space_id: count for space_id in pruner.channel_spaces}
            assert int(pruner.subnet_of_counts(counts)['left'].sum()) == expected
    _, _, pruner = prepared(StageOfShuffleNetV2)
    for kept in range(1, 10):
        bins = pruner.get_max_channel_bins(9)
        for own in bins.values():
            own[kept:] = 0
        pruner.set_channel_bins(bins, 9)
        assert int(pruner.current_subnet()['left'].sum()) == 4 * kept


def test_costs_are_a_function_of_the_widths():
    _, _, pruner = prepared(StageOfShuffleNetV2)
    table = pruner.cost_table()
    subnets = [scattered(pruner, seed, 0.2 + seed / 10) for seed in range(6)]
    widths = np.concatenate([np.atleast_2d(table.widths_of(subnet)) for subnet in subnets])
    found = table.batch(widths)
    for row, subnet in enumerate(subnets):
        assert {name: int(column[row]) for name, column in found.items()} == pruner.cost(subnet)


def test_a_shuffle_whose_subnets_fail_is_cut_in_order(monkeypatch):
    """Both of the blocks that are dealt out lose the same channels."""
    monkeypatch.setattr(Arrangement, 'places', lambda self, mask: {})
    _, _, pruner = prepared(StageOfShuffleNetV2)
    assert not pruner.supernet.labelling.arrangements
    for seed in range(3):
        subnet = scattered(pruner, seed)
        assert not subnet['left'].all()
        assert pruner.verify_subnet(subnet=subnet).ok


# -- files, plans, copies --------------------------------------------------------------


@pytest.mark.parametrize(('toy', 'space_id'), SHUFFLED)
def test_a_file_says_the_order(toy, space_id, tmp_path):
    """A plain network is cut by it without a trace; a supernet reads the same subnet."""
    model, data, pruner = prepared(toy)
    plain = copy.deepcopy(model)
    pruner_of_plain = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    plain = pruner_of_plain.deploy_subnet(plain, pruner.export_subnet())
    pruner.set_subnet(scattered(pruner, 3))
    cfg = pruner.export_subnet()
    for name in ('a.yaml', 'a.json'):
        save_channel_cfg(cfg, tmp_path / name)
        assert load_channel_cfg(tmp_path / name) == cfg
    small = pruner_of_plain.deploy_subnet(plain, tmp_path / 'a.yaml')
    torch.testing.assert_close(outputs(small, data), outputs(model, data), rtol=1e-10, atol=1e-12)
    read = pruner.load_channel_cfg(tmp_path / 'a.yaml')
    assert all(torch.equal(read[key], mask) for key, mask in pruner.current_subnet().items())
    indices = [v for entry in cfg.values() for k, v in entry.items() if k.endswith('_index')]
    assert any(index != sorted(index) for index in indices)


def test_files_with_ascending_channels_are_read_as_before():
    """The same places of both blocks, as files had it when order could not be said."""
    model, data, pruner = prepared(NormOfShuffled)
    places = np.array([0, 1, 4, 5, 8, 9])
    index = sorted([*places.tolist(), *(12 + places).tolist()])
    kept = dict(out_channels=12, raw_out_channels=24)
    cfg = pruner.export_subnet()
    norm = (np.arange(24).reshape(2, 12).T.ravel()[:, None] == np.array(index)).any(1).nonzero()[0]
    cfg['a'].update(kept, out_index=index)
    cfg['norm'].update(kept, out_index=norm.tolist())
    cfg['b'].update(in_channels=12, in_index=norm.tolist())
    plain = copy.deepcopy(model)
    pruner.set_max_channel()
    small = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0])).deploy_subnet(plain, cfg)
    again = pruner.deploy_subnet(model, cfg)
    pruner.set_subnet(pruner.load_channel_cfg(cfg))
    for network in (small, again):
        torch.testing.assert_close(
            outputs(network, data), outputs(model, data), rtol=1e-10, atol=1e-12
        )


def test_plans_say_what_else_goes():
    model, _, pruner = prepared(StageOfShuffleNetV2)
    plan = pruner.plan('two.b', [0, 4])
    assert '32 or 36 can be kept' in plan.problem
    complete = pruner.plan('two.b', [0, 4], complete=True)
    assert not complete.problem
    subnet = complete.execute()
    assert not pruner.supernet.alive[pruner.supernet.layers['two.b'].outputs[[0, 4]]].any()
    assert pruner.verify_subnet(model, subnet).ok


def test_blocks_that_are_no_whole_kinds_need_not_keep_equally_many():
    """The linear layer has no groups: of what it makes for each group that reads, any may stay."""
    model, _, pruner = prepared(ShuffleOfFourGroups)
    group = pruner.channel_groups['a']
    assert [len(c.blocks) for c in group.constraints] == [4], 'those of the reader alone'
    kept = set()
    for seed in range(30):
        mask = group.select(np.random.default_rng(seed).random(24), 12)
        assert not group.problem_with(mask)
        kept.add(tuple(mask.reshape(4, 6).sum(1).tolist()))
    assert len(kept) > 1
    plan = pruner.plan('a', [0, 1, 2], complete=True)
    assert pruner.verify_subnet(model, plan.execute()).ok
    assert int(pruner.current_subnet()['a'].sum()) < 24


def test_rows_that_are_the_same_at_full_width_only():
    """Eight channels are in order again after three shuffles; six are not."""

    class Thrice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
            self.b, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

        def forward(self, x):
            x = torch.relu(self.norm(self.a(x)))
            for _ in range(3):
                x = shuffled(x, 2)
            return self.head(self.b(x).mean((2, 3)))

    model, data = randomise(Thrice().double()).eval(), torch.randn(2, 3, 4, 4).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.25, 0.5, 0.75, 1.0]))
    pruner.prepare_from_supernet(model, data)
    arrangement = pruner.channel_groups['a'].arrangement
    assert [step for step in range(1, 9) if arrangement.dealt(step) is not None] == [2, 8]
    for _ in range(4):
        assert pruner.verify_subnet(model, pruner.sample_subnet()).ok


def test_masks_in_a_state_dict_and_copies_keep_the_order():
    model, data, pruner = prepared(UnitOfShuffleNetV1)
    pruner.set_subnet(scattered(pruner, 5))
    expected, state = outputs(model, data), copy.deepcopy(model.state_dict())
    torch.testing.assert_close(outputs(copy.deepcopy(model), data), expected, rtol=0, atol=0)
    pruner.set_max_channel()
    model.load_state_dict(state)
    torch.testing.assert_close(outputs(model, data), expected, rtol=0, atol=0)


def test_an_importance_scores_channels_of_a_stage():
    model, _, pruner = prepared(StageOfShuffleNetV2, importance=dict(type='L1Importance'))
    subnet = pruner.subnet_of_counts({name: 20 for name in pruner.channel_spaces})
    scores = pruner.importance.scores(pruner.channel_groups['left'], model)
    mask = subnet['left'].numpy().ravel() > 0
    assert scores[mask].mean() > scores[~mask].mean()


def test_one_module_that_shuffles_by_permuting_is_exact():
    class Permuted(StageOfShuffleNetV2):
        GROUPS = {}

        def forward(self, x):
            x = torch.cat([self.left(x), self.one(x)], 1).unflatten(1, (3, -1))
            x = x.permute(0, 2, 1, 3, 4).flatten(1, 2)
            x = torch.cat(torch.split(x, x.shape[1] // 2, 1)[::-1], 1)
            return self.head(torch.relu(self.c(self.deep(x))).mean((2, 3)))

    torch.manual_seed(0)
    model, data = randomise(Permuted().double()).eval(), torch.randn(2, 3, 8, 8).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    assert pruner.channel_groups['left'].arrangement is not None
    for _ in range(3):
        assert pruner.verify_subnet(model).ok


# -- steps and cuts --------------------------------------------------------------------


def test_steps_run_at_any_width():
    shuffle = [
        Step('source', (0,)),
        Step('source', (1,)),
        Step('cat', (), (0, 1)),
        Step('cut', (2,), (2,)),
        Step('turn', (1, 0), (3,)),
        Step('flat', (), (4,)),
        Step('part', (1, 2), (5,)),
        Step('chunk', (2, 3), (5,)),
    ]
    rows = run_steps(shuffle, (4, 4))
    assert rows[5].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert rows[6].tolist() == [2, 6, 3, 7]
    assert rows[7].tolist() == [3, 7]
    assert run_steps(shuffle, (3, 3))[6].tolist() == [4, 2, 5]
    with pytest.raises(NoSuchWidthError):
        run_steps(shuffle, (2, 3))
    with pytest.raises(NoSuchWidthError):
        run_steps(shuffle, (2, 2))  # chunks of 2: there is no third one
    alike = [*shuffle, Step('alike', (), (0, 1))]
    with pytest.raises(NoSuchWidthError):
        run_steps(alike, (4, 4))


def test_a_grouped_weight_is_cut_in_any_order():
    weight = torch.arange(6 * 4.0).reshape(6, 4)  # 2 groups: 3 of 6 outputs, 4 of 8 inputs each
    outputs, inputs = np.array([2, 0, 4, 3]), np.array([3, 1, 4, 6])
    part = grouped_cut((6, 4), outputs, inputs, 2)(weight)
    expected = torch.stack([weight[2, [3, 1]], weight[0, [3, 1]], weight[4, [0, 2]],
                            weight[3, [0, 2]]])  # fmt: skip
    torch.testing.assert_close(part, expected, rtol=0, atol=0)
    back = torch.zeros(6, 4)
    grouped_cut((6, 4), outputs, inputs, 2).write_back(back, part)
    assert (back[back != 0] == weight[back != 0]).all()
    with pytest.raises(ValueError, match='2 groups keep between 1 and 3 channels'):
        grouped_cut((6, 4), np.array([0, 1, 2, 3]), None, 2)
    with pytest.raises(ValueError, match='not one group after the other'):
        grouped_cut((6, 4), np.array([0, 3, 1, 4]), None, 2)


def test_turned_layers_of_every_type():
    order = np.array([3, 0, 2])
    linear, up = nn.Linear(4, 5), nn.ConvTranspose2d(4, 5, 1)
    torch.testing.assert_close(
        turned_cuts(linear, order, None)['weight'](linear.weight), linear.weight[:, order]
    )
    torch.testing.assert_close(turned_cuts(up, order, None)['weight'](up.weight), up.weight[order])
    deep = nn.Conv2d(4, 4, 1, groups=4)
    torch.testing.assert_close(
        turned_cuts(deep, order, order, 4)['weight'](deep.weight), deep.weight[order]
    )
    with pytest.raises(ValueError, match='stand in other orders'):
        turned_cuts(deep, order[::-1], order, 4)
    with pytest.raises(ValueError, match='cannot change places'):
        turned_cuts(nn.Conv2d(4, 8, 1, groups=4), order, np.array([6, 7, 0, 1, 4, 5]), 4)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_several_subnets_of_a_stage(execution):
    """Supernet and deployed network are equal, and cost what is said, to the unit."""
    model, data, pruner = prepared(StageOfShuffleNetV2, execution)
    assert_exact(StageOfShuffleNetV2, model, data, pruner, seeds=4)
