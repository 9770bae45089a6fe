"""Every road that a user takes is traced, labelled, tried and verified."""

import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from toys_roads import IMAGES, TOYS, AuxiliaryHead

from mmprune.registry import LOSS_INPUTS, PRUNERS
from mmprune.trace import Road
from mmprune.trace.calls import tensors_in
from mmprune.trace.chance import without_chance
from mmprune.trace.model_state import untouched


@pytest.fixture(autouse=True)
def loss_of_the_toy():
    LOSS_INPUTS.register_module(
        name='LossHeadOfMmengine',
        module=lambda model, images: dict(inputs=images, mode='loss'),
    )
    yield
    del LOSS_INPUTS.module_dict['LossHeadOfMmengine']


def prepared(model, demo_input, **options):
    model = randomise(model.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **options))
    pruner.prepare_from_supernet(model, demo_input)
    return model, pruner


def run(model, road):
    """Outputs of two passes on a road, and the gradients of the second; nothing stays."""
    with untouched(model):
        model.train(road.training)
        with without_chance():
            with torch.no_grad():
                before = tensors_in(road.run(model))
            outputs = tensors_in(road.run(model))
            sum(out.square().sum() + out.sum() for out in outputs).backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return [out.detach() for out in (*before, *outputs)], gradients


def cut_like_weights(pruner, model, cfg, values):
    """Numbers of the full parameters, cut as these are; None where there are none."""
    before = [parameter.data for parameter in model.parameters()]
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data = torch.zeros_like(parameter) if value is None else value
    found = [p.detach().clone() for p in pruner.deploy_subnet(model, cfg).parameters()]
    for parameter, data in zip(model.parameters(), before, strict=True):
        parameter.data = data
    return found


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_of_all_roads(toy):
    model, pruner = prepared(toy(), toy.demo_input())
    found = {
        space_id: (group.num_channels, set(group.layers), set(group.consumers))
        for space_id, group in pruner.channel_groups.items()
        if group.prunable
    }
    assert found == toy.GROUPS
    pinned = {name: group.reason for name, group in pruner.channel_groups.items()}
    assert {name for name in pinned if name not in found} == toy.PINNED
    assert tuple(r.name for r in pruner.supernet.graph.roads if r.adds) == toy.ROADS
    assert not pruner.supernet.not_walked()
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    sizes = [sum(p.numel() for p in network.parameters()) for network in (deployed, model)]
    assert sizes[0] < toy.KEPT * sizes[1]


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_exact_on_all_roads(toy, execution):
    """Outputs, gradients and statistics are the same in the supernet and deployed."""
    model, pruner = prepared(toy(), toy.demo_input(), execution=execution)
    for seed in range(2):
        subnet = scattered(pruner, seed)
        pruner.set_subnet(subnet)
        cfg = pruner.export_subnet()
        deployed = pruner.deploy_subnet(model, cfg)
        for road in pruner.supernet.roads():
            (inside, gradients), (outside, theirs) = run(model, road), run(deployed, road)
            close(inside, outside)
            ours = cut_like_weights(pruner, model, cfg, gradients)
            for (name, parameter), mine, other in zip(
                deployed.named_parameters(), ours, theirs, strict=True
            ):
                assert other is not None or not mine.any(), name
                close(mine, torch.zeros_like(parameter) if other is None else other)
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, report
        assert report.roads == tuple(road.name for road in pruner.supernet.roads())
    pruner.set_max_channel()


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_preparing_and_verifying_leave_a_network_as_it_was(toy):
    model = randomise(toy().double()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    state = torch.get_rng_state()
    pruner.prepare_from_supernet(model, toy.demo_input())
    assert pruner.verify_subnet(model, scattered(pruner)).ok
    assert torch.equal(state, torch.get_rng_state())
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert model.training
    assert isinstance(vars(nn.Module).get('training'), type(None))


def test_costs_are_those_of_the_first_road():
    model, pruner = prepared(AuxiliaryHead(), IMAGES)
    plain = randomise(AuxiliaryHead().double())
    first = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    first.prepare_from_supernet(plain, [Road('eval', IMAGES)])
    columns = ('macs', 'traffic', 'peak')
    assert pruner.cost(columns=columns) == first.cost(columns=columns)
