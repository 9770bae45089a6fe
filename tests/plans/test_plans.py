"""Plans: what they show, what they do, what they refuse, and that they can be done again."""

import json
import re

import numpy as np
import pytest
import torch
from randomised import randomise
from small_network import images, new_pruner, nothing_changes, small_network
from torch import nn

from mmprune.errors import InputError
from mmprune.plans.removals import PlanError


def fresh():
    model, pruner = small_network(), new_pruner()
    pruner.prepare_from_supernet(model, images())
    return model, pruner


def deployed(model, pruner):
    return pruner.deploy_subnet(model, pruner.export_subnet())


def test_a_plan_shows_every_dim_and_why_and_changes_nothing():
    model, pruner = fresh()
    with nothing_changes(model, pruner):
        plan = pruner.plan('stem.0', channels=[2, 6])
        rows = {(t.tensor, t.dims): (t.before, t.removed, t.why) for t in plan.touched}
        shown = str(plan)
    multiply = 'MulBackward0 in scale'
    add = 'AddBackward0 in the root module'
    assert rows == {
        ('stem.0.weight', (0,)): (8, (2, 6), 'chosen'),
        ('stem.0.bias', (0,)): (8, (2, 6), 'chosen'),
        **{
            (f'stem.1.{name}', (0,)): (8, (2, 6), 'normalises stem.0')
            for name in ('weight', 'bias', 'running_mean', 'running_var')
        },
        ('depthwise.weight', (0,)): (8, (2, 6), 'reads stem.1'),
        ('depthwise.bias', (0,)): (8, (2, 6), 'reads stem.1'),
        ('expand.weight', (1,)): (8, (2, 6), 'reads depthwise'),
        ('reduce.weight', (0,)): (8, (2, 6), f'meets stem.1 at {add}'),
        ('reduce.bias', (0,)): (8, (2, 6), f'meets stem.1 at {add}'),
        ('scale.gamma', (0,)): (8, (2, 6), f'meets them at {multiply}'),
        ('fc.weight', (1,)): (8, (2, 6), 'reads stem.1'),
    }
    assert 'remove [2, 6] of the 8 outputs of stem.0' in shown
    assert re.search(r'expand.weight +1 +8 -> 6 +\[2, 6\] +reads depthwise', shown)
    assert not plan.problem


def test_executing_removes_exactly_these_channels():
    model, pruner = fresh()
    plan = pruner.plan('expand', [0, 11])
    expected = plan.cost[1]
    subnet = plan.execute()
    assert np.flatnonzero(subnet['expand'].numpy().ravel() == 0).tolist() == [0, 11]
    assert pruner.current_subnet()['stem.0'].all()
    small = deployed(model, pruner)
    index = list(range(1, 11))
    assert torch.equal(small.expand.weight, model.expand.weight[index])
    assert torch.equal(small.reduce.weight, model.reduce.weight[:, index])
    assert sum(p.numel() for p in small.parameters()) == expected['params']
    torch.testing.assert_close(small(images()), model(images()))
    assert pruner.verify_subnet(model, subnet).ok


def test_inputs_name_the_same_channels():
    _, pruner = fresh()
    by_output, by_input = pruner.plan('expand', [3]), pruner.plan('reduce', [3], side='in')
    assert (by_output.alive == by_input.alive).all()
    rows = {t.tensor: t.why for t in by_input.touched}
    assert rows['reduce.weight'] == 'chosen'
    assert rows['norm.weight'] == 'makes what reduce reads'
    assert rows['expand.weight'] == 'makes what norm reads'
    assert pruner.plan('norm', [3], side='in').touched[0].removed == (3,)


def test_plans_compose_in_any_order():
    model, pruner = fresh()
    both = pruner.plan('stem.0', [1]) + pruner.plan('expand', [4, 5])
    both.execute()
    together = deployed(model, pruner)(images())
    pruner.set_max_channel()
    second, first = pruner.plan('expand', [4, 5]), pruner.plan('stem.0', [1])
    second.execute()
    first.execute()
    assert torch.equal(deployed(model, pruner)(images()), together)
    # A second plan shows what is left, in the numbers of the full network.
    again = pruner.plan('expand', [4, 6])
    assert again.touched[0].before == 10
    assert again.touched[0].removed == (6,)
    assert 'are gone already' in str(pruner.plan('expand', [4]))


def test_recorded_plans_replay_on_a_fresh_model(tmp_path):
    model, pruner = fresh()
    pruner.plan('stem.0', [1, 7]).execute()
    pruner.plan('reduce', [4], side='in').execute()
    assert [r.layer for r in pruner.executed_plans] == ['stem.0', 'reduce']
    pruner.save_plans(tmp_path / 'plans.json')
    other, again = fresh()
    subnet = again.replay_plans(tmp_path / 'plans.json')
    assert all(torch.equal(mask, pruner.current_subnet()[key]) for key, mask in subnet.items())
    first, second = deployed(model, pruner), deployed(other, again)
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key])
    # What was replayed is recorded in turn.
    again.save_plans(tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_text() == (tmp_path / 'plans.json').read_text()


def test_a_subnet_that_was_set_otherwise_is_recorded_too(tmp_path):
    _, pruner = fresh()
    pruner.plan('stem.0', [1]).execute()
    pruner.set_min_channel()
    pruner.plan('expand', [0]).execute()
    pruner.save_plans(tmp_path / 'plans.json')
    assert json.loads((tmp_path / 'plans.json').read_text())['base']['stem.0'] == [4, 5, 6, 7]
    _, again = fresh()
    subnet = again.replay_plans(tmp_path / 'plans.json')
    assert all(torch.equal(mask, pruner.current_subnet()[key]) for key, mask in subnet.items())


def test_preparing_again_begins_a_new_record():
    model, pruner = fresh()
    old = pruner.plan('stem.0', [1])
    old.execute()
    pruner.prepare_from_supernet(model, images())
    assert not pruner.executed_plans
    with pytest.raises(PlanError, match='two prepared networks'):
        old + pruner.plan('stem.0', [1])
    with pytest.raises(RuntimeError, match='has been prepared again'):
        old.execute()


class Branches(nn.Module):
    """A concatenation, a convolution in two groups behind it, an addition with a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.fc = nn.Linear(8, 2)

    def forward(self, data):
        data = torch.cat([self.a(data), self.b(data)], 1)
        return self.fc(self.grouped(self.norm(data)).mean((2, 3)))


def branches():
    model, pruner = randomise(Branches().double()).eval(), new_pruner()
    pruner.prepare_from_supernet(model, images())
    return model, pruner


def test_a_concatenation_shifts_positions():
    _, pruner = branches()
    plan = pruner.plan('b', [1], complete=True)
    rows = {t.tensor: t.removed for t in plan.touched}
    assert 5 in rows['norm.weight']
    assert 1 in rows['b.weight']


def test_constraints_are_refused_or_completed():
    model, pruner = branches()
    plan = pruner.plan('grouped', [0])
    assert 'cannot be carried out' in str(plan)
    with (
        nothing_changes(model, pruner),
        pytest.raises(PlanError, match=r'keeps between 3 and 4 .* complete=True. adds those'),
    ):
        plan.execute()
    whole = pruner.plan('grouped', [0], complete=True)
    assert whole.removals[0].channels == (0, 7)
    subnet = whole.execute()
    assert pruner.verify_subnet(model, subnet).ok


def test_a_plan_that_would_empty_a_layer_is_refused():
    model, pruner = fresh()
    pruner.plan('expand', range(11)).execute()
    plan = pruner.plan('expand', [11])
    with (
        nothing_changes(model, pruner),
        pytest.raises(PlanError, match="plan for expand: group 'expand' keeps 0 of 12 channels"),
    ):
        plan.execute()
    assert len(pruner.executed_plans) == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(layer='body.expand', channels=[0]), r"no traced layer 'body.expand' .*\['expand'\]"),
        (dict(layer='expand', channels=[12]), 'has no channel 12, only 0 to 11'),
        (dict(layer='expand', channels=[]), 'needs at least one channel'),
        (dict(layer='expand', channels=['a']), "has no channel 'a'"),
        (dict(layer='fc', channels=[0]), r'channel 0 of its 5 outputs is pinned \(output of the'),
        (dict(layer='stem.0', channels=[0], side='in'), r'of its 3 inputs is pinned \(is an input'),
        (dict(layer='stem.0', channels=[0], side='up'), "side must be 'in' or 'out', not 'up'"),
    ],
)
def test_plans_that_cannot_be_made(options, message):
    model, pruner = fresh()
    with nothing_changes(model, pruner), pytest.raises(InputError, match=message):
        pruner.plan(**options)


def test_files_that_do_not_fit_are_refused(tmp_path):
    _, source = fresh()
    source.plan('expand', [1, 2]).execute()
    path = tmp_path / 'plans.json'
    source.save_plans(path)
    good = json.loads(path.read_text())

    def changed(**parts):
        return json.dumps({**good, **parts})

    plan = good['plans'][0]
    broken = {
        path.read_text()[:-20]: 'broken or cut off',
        '[]': 'expected a mapping, found ',
        changed(format={'name': 'mmprune plans', 'version': 2}): 'format.version: expected 1',
        changed(kept=None): 'kept: expected a mapping, found None',
        changed(plans=[{**plan, 'layer': 'nowhere'}]): "no traced layer 'nowhere'",
        changed(plans=[{**plan, 'raw': 24}]): "'expand' has 12 outputs, .* made for 24",
        changed(plans=[{**plan, 'channels': [12]}]): 'has no channel 12; it has 12 channels',
        changed(plans=[{'layer': 'expand'}]): r'plans\[0\]: channels is missing',
        changed(plans=[{**plan, 'channels': 3}]): r'plans\[0\].channels: expected a list, found 3',
        changed(plans=[{**plan, 'channels': list(range(12))}]): 'keeps 0 channels here, but 10',
        changed(kept={**good['kept'], 'stem.0': 7}): "'stem.0' keeps 8 channels here, but 7",
        changed(base={'other': [0]}): "group 'other' has 0 prunable channels",
    }
    model, pruner = fresh()
    for text, message in broken.items():
        path.write_text(text)
        with (
            nothing_changes(model, pruner),
            pytest.raises(PlanError, match=rf'plans\.json: .*{message}'),
        ):
            pruner.replay_plans(path)
    with pytest.raises(PlanError, match=r'none\.json: cannot be read'):
        pruner.replay_plans(tmp_path / 'none.json')
