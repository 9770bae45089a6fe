"""Widths that are learned on a detector's own loss, feature pyramid and shared head included."""

from typing import Any

import torch
from tiny_models import prepared
from torch import nn

from mmprune.registry import PRUNERS


def pruner_of(model: nn.Module, roads: Any, **options: Any) -> Any:
    options = {'type': 'ImportancePruner', 'budget': dict(macs=0.6), **options}
    pruner = PRUNERS.build(dict(_scope_='mmprune', **options))
    pruner.prepare_from_supernet(model, roads)
    return pruner


def test_a_detector_learns_its_widths() -> None:
    """All three ways on one model: each prepares it again."""
    model, _, roads = prepared('RetinaNet')
    (road,) = [road for road in roads if road.name == 'loss']

    def loss() -> torch.Tensor:
        model.train()
        return model.parse_losses(road.run(model))[0]

    pruner = pruner_of(model, roads, importance='GroupFisher', score_per='macs')
    width = sum(int(mask.sum()) for mask in pruner.current_subnet().values())
    with pruner.importance.listening(model, pruner.channel_groups):
        loss().backward()
    assert not pruner.remove(3)
    assert sum(int(mask.sum()) for mask in pruner.current_subnet().values()) == width - 3
    pruner.set_max_channel()

    pruner = pruner_of(model, roads, type='MarkovPruner', ratios=[0.5, 0.75, 1.0])
    with pruner.softened():
        (gradient,) = torch.autograd.grad(loss(), pruner.logits)
    assert gradient.isfinite().all()
    assert (gradient != 0).any(1).all()
    assert pruner.verify_subnet(subnet=pruner.learned_subnet()).ok

    pruner = pruner_of(model, roads, importance='Fusion', scope='local')
    subnet, supernet = pruner.prune(), pruner.supernet
    mixings = pruner.importance.mixings(supernet.groups, model)
    supernet.execution.mix(mixings)
    pruner.set_subnet(subnet)
    mixed = loss().detach()
    with torch.no_grad():
        for name, function in mixings.items():
            model.get_parameter(name).copy_(function(model.get_parameter(name)))
    supernet.execution.mix({})
    pruner.set_subnet(subnet)
    torch.testing.assert_close(loss().detach(), mixed, rtol=1e-9, atol=1e-9)
    assert pruner.verify_subnet(subnet=subnet).ok
