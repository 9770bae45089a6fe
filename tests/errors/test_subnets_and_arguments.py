"""Subnets that do not fit, models that cannot be run, arguments that make no sense."""

import copy

import pytest
import torch
from small_network import (
    INSIDE,
    STEM,
    SmallNetwork,
    images,
    new_pruner,
    nothing_changes,
    prepared,
    small_network,
)
from torch import nn

from mmprune.errors import InputError


def without(space_id):
    def apply(subnet):
        del subnet[space_id]

    return apply


def put(space_id, value):
    def apply(subnet):
        subnet[space_id] = value

    return apply


ONES = torch.ones(1, 12, 1, 1)


@pytest.mark.parametrize(
    ('alter', 'message'),
    [
        (without(STEM), r"1 of 2 groups are missing, 'stem\.0' first"),
        (put('widen', ONES), "space_id 'widen' is unknown .*2 prunable groups"),
        (put('fc', torch.ones(1, 5)), r"space_id 'fc' is pinned \(output of the network\)"),
        (put(INSIDE, torch.ones(1, 11, 1, 1)), "'expand' has 11 channels, the group has 12"),
        (put(INSIDE, torch.ones(1, 13, 1, 1)), "'expand' has 13 channels, the group has 12"),
        (put(INSIDE, torch.ones(0)), "'expand' has 0 channels, the group has 12"),
        (put(INSIDE, 0 * ONES), "'expand' keeps 0 of 12 channels; at least 1 must stay"),
        (put(INSIDE, 0.5 * ONES), "'expand' has values other than 0 and 1"),
        (put(INSIDE, 2 * ONES), "'expand' has values other than 0 and 1"),
        (put(INSIDE, float('nan') * ONES), "'expand' has values other than 0 and 1"),
        (put(INSIDE, [1] * 12), "'expand' is a list, not a tensor"),
        (put(INSIDE, None), "'expand' is a NoneType, not a tensor"),
        (put(INSIDE, ONES.to_sparse()), "'expand' is of the layout torch.sparse_coo"),
        (put(INSIDE, ONES.to('meta')), "'expand' has no numbers"),
    ],
)
def test_a_subnet_that_does_not_fit_is_refused(alter, message):
    model, pruner = prepared()
    subnet = {space_id: mask.clone() for space_id, mask in pruner.current_subnet().items()}
    alter(subnet)
    with nothing_changes(model, pruner):
        for use in (
            pruner.set_subnet,
            pruner.cost,
            lambda subnet: pruner.verify_subnet(model, subnet),
        ):
            with pytest.raises(InputError, match=message):
                use(subnet)


def test_something_else_than_a_subnet():
    model, pruner = prepared()
    wrong = {
        'bins: expected a mapping, found 3': lambda: pruner.set_channel_bins(3, 2),
        'max_channel_bins: expected a whole number': lambda: pruner.get_max_channel_bins(1.5),
        'leave_out: expected a list, found 3': lambda: pruner.topology(3),
        'a list of widths: expected a list, found 3': lambda: pruner.channel_list_cfg(3),
        "layer 'stem.0', outputs: expected numbers": lambda: pruner.plan('stem.0', 3),
        'takes a network, not a str': lambda: pruner.deploy_subnet('x', pruner.export_subnet()),
        'None: no name of a file, but a NoneType': lambda: pruner.save_plans(None),
    }
    with nothing_changes(model, pruner):
        for message, use in wrong.items():
            with pytest.raises(InputError, match=message):
                use()
        with pytest.raises(InputError, match='expected a dict of masks, not a list'):
            pruner.set_subnet([torch.ones(8)])
        with pytest.raises(InputError, match='2 of 2 groups are missing'):
            pruner.set_subnet({})


@pytest.mark.parametrize(
    ('bins', 'count', 'message'),
    [
        ({STEM: torch.ones(4)}, 4, "'expand': expected 4 bins, found none"),
        ({STEM: torch.ones(4), INSIDE: torch.ones(3)}, 4, "'expand': expected 4 bins, found 3"),
    ],
)
def test_bins_that_do_not_fit(bins, count, message):
    model, pruner = prepared()
    with nothing_changes(model, pruner), pytest.raises(InputError, match=message):
        pruner.set_channel_bins(bins, count)
    with pytest.raises(
        InputError, match='max_channel_bins: expected a whole number from 1, found 0'
    ):
        pruner.get_max_channel_bins(0)


class Unrunnable(SmallNetwork):
    def forward(self, data):
        data = self.stem(data)
        self.visited = True
        raise RuntimeError('no more')


class Silent(SmallNetwork):
    """Its output does not depend on its parameters, as far as autograd can see."""

    def forward(self, data):
        with torch.inference_mode():
            return super().forward(data)


@pytest.mark.parametrize(
    ('kind', 'demo_input', 'message'),
    [
        (SmallNetwork, images()[:, :2], "cannot be run on a demo input of 2x2x6x6 .*'stem.0'"),
        (SmallNetwork, images().float(), 'cannot be run on a demo input of .*float32'),
        (SmallNetwork, (images(), images()), 'cannot be run on a demo input of'),
        (SmallNetwork, {'image': images()}, "cannot be run .*'image'"),
        (SmallNetwork, 5, 'demo_input: expected a tensor.*found int'),
        (SmallNetwork, lambda model: model(), 'cannot be run on the given callable'),
        (Unrunnable, images(), 'Unrunnable cannot be run on .*no more'),
        (Silent, images(), 'does not depend on any of its parameters'),
        (SmallNetwork, lambda model: [3, 'words'], 'does not depend on any of its parameters'),
    ],
)
def test_a_model_that_cannot_be_traced_is_left_as_it_was(kind, demo_input, message):
    model = kind().double().train()
    model.norm.eval()
    model.fc.weight.requires_grad_(False)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(module.__dict__) for module in model.modules()]
    training = [module.training for module in model.modules()]
    pruner = new_pruner()
    with pytest.raises(InputError, match=message):
        pruner.prepare_from_supernet(model, demo_input=demo_input)
    after = model.state_dict()
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    assert [dict(module.__dict__) for module in model.modules()] == attributes
    assert [module.training for module in model.modules()] == training
    assert not model.fc.weight.requires_grad
    with pytest.raises(RuntimeError, match='has no supernet yet'):
        pruner.current_subnet()


def test_a_failed_second_preparation_keeps_the_first():
    model, pruner = prepared()
    with nothing_changes(model, pruner):
        for other in (pruner, new_pruner()):
            with pytest.raises(InputError, match='cannot be run on a demo input'):
                other.prepare_from_supernet(model, demo_input=images()[:, :1])
    assert pruner.verify_subnet(model, pruner.current_subnet()).ok


def test_a_model_whose_names_are_taken_is_left_as_it_was():
    model = small_network()
    model.reduce.in_mask = 'mine'
    with nothing_changes(model), pytest.raises(InputError, match=r"'reduce'.* 'in_mask'"):
        new_pruner().prepare_from_supernet(model, images())
    assert model.reduce.in_mask == 'mine'


@pytest.mark.parametrize('kind', ['L1Importance', 'L2Importance'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_cannot_be_compared_are_told_with_their_group(kind, value):
    model = small_network()
    pruner = new_pruner(importance=dict(type=kind))
    pruner.prepare_from_supernet(model, images())
    with torch.no_grad():
        model.reduce.weight[2, 3] = value
    before = pruner.current_subnet()
    message = rf"group '(stem\.0|expand)': 1 of the 96 numbers of 'reduce\.weight'.*{kind}"
    with pytest.raises(InputError, match=message):
        pruner.set_min_channel()
    with pytest.raises(InputError, match=message):
        pruner.sample_subnet()
    assert all(torch.equal(mask, before[i]) for i, mask in pruner.current_subnet().items())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ratios=[]), 'ratios: expected numbers above 0 up to 1, found none'),
        (dict(ratios=[0.0, 0.5]), r'ratios: \[0\]: expected .*, found 0.0'),
        (dict(ratios=[0.5, 1.5]), r'ratios: \[1\]: expected a number above 0 up to 1, found 1.5'),
        (dict(ratios=[-0.5]), r'ratios: \[0\]: expected'),
        (dict(ratios=[float('nan')]), r'ratios: \[0\]: expected'),
        (dict(ratios=['half']), r"ratios: \[0\]: expected .* found 'half'"),
        (dict(ratios=0.5), 'ratios: expected a list, found 0.5'),
        (dict(ratios='0.5'), "ratios: expected a list, found '0.5'"),
        (dict(ratios=None), 'ratios: expected a list, found None'),
        (dict(execution='slices'), "execution must be 'slice' or 'mask', not 'slices'"),
        (dict(attention='tokens'), "attention must be 'heads' or 'dims', not 'tokens'"),
        (dict(group_norm='all'), "group_norm must be 'channels' or 'groups', not 'all'"),
        (dict(except_start_keys='head.fc'), r"a list of names: \['head.fc'\], not 'head.fc'"),
        (dict(importance=3), 'importance must be a name .* not 3'),
        (dict(importance='Tailor'), "no importance 'TailorImportance'; did you mean 'TaylorImp"),
        (dict(importance=dict(type='L3Importance')), "'L3Importance'; did you mean 'LpImp"),
        (dict(importance=dict(kind='L1Importance')), 'importance: expected a config with a type'),
        (dict(importance=dict(type='RandomImportance', sed=1)), "no option 'sed'; did you mean 's"),
    ],
)
def test_arguments_of_a_pruner_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        new_pruner(**options)


@pytest.mark.parametrize(
    ('ties', 'message'),
    [
        ([('stem.0', 'widen')], "cannot tie 'widen': no traced layer has this name"),
        ([('stem.0', 'expand')], r"cannot tie \('stem.0', 'expand'\): they have \[8, 12\]"),
    ],
)
def test_ties_that_cannot_be(ties, message):
    model = small_network()
    with nothing_changes(model), pytest.raises(InputError, match=message):
        new_pruner(ties=ties).prepare_from_supernet(model, images())


def test_verifying_another_model_is_refused():
    model, pruner = prepared()
    with nothing_changes(model, pruner), pytest.raises(InputError, match='not the one that was'):
        pruner.verify_subnet(small_network())


def test_a_deep_copy_is_not_disturbed_by_what_is_refused():
    model, pruner = prepared()
    copied = copy.deepcopy(model)
    with nothing_changes(copied), pytest.raises(InputError):
        pruner.set_subnet({})


def test_an_importance_of_the_users_own():
    class Last:
        def scores(self, group, model):
            return torch.arange(group.num_channels).numpy()

    pruner = new_pruner(importance=Last())
    pruner.prepare_from_supernet(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).double(), images()
    )
    pruner.set_min_channel()
    assert pruner.current_subnet()['0'].flatten().tolist() == [0, 0, 1, 1]
