"""mmprune at the task: by importance to a budget, by network slimming, by AutoSlim."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from mmprune.bench.accuracy.criteria import nearest
from mmprune.bench.accuracy.data import Images
from mmprune.bench.accuracy.networks import demo_input, quiet
from mmprune.bench.accuracy.peer import Batches
from mmprune.bench.accuracy.training import loss_of, train
from mmprune.errors import InputError
from mmprune.pruners import ImportancePruner, NetworkSlimming
from mmprune.registry import PRUNERS
from mmprune.training.slimming import SlimmingPenalty


class Cut(NamedTuple):
    """A pruned network.

    Attributes:
        network: Plain, with the weights that it was cut with.
        channel_cfg: Which channels of the full network it has; None if not known.
        seen: What a search saw of it.
    """

    network: nn.Module
    channel_cfg: Mapping[str, Any] | None = None
    seen: Mapping[str, float] | None = None


def pruned(
    network: nn.Module, importance: Mapping[str, Any], scope: str, target: float, batches: Batches
) -> Cut:
    """A new network of at most so many multiply-adds, without the least important channels.

    Args:
        network: Left as it is.
        importance: Config.
        scope: One of ``SCOPES``.
        target: Multiply-adds.
        batches: What importances that look at data see.
    """
    supernet = copy.deepcopy(network)
    pruner: ImportancePruner = PRUNERS.build(
        dict(
            _scope_='mmprune',
            type='ImportancePruner',
            budget=dict(macs=target),
            scope=scope,
            importance=dict(importance),
            except_start_keys=['head.fc'],
        )
    )
    with quiet():
        pruner.prepare_from_supernet(supernet, demo_input(network))
        if pruner.needs_data:
            pruner.collect(batches, loss_of)
        pruner.prune()
    channel_cfg = pruner.export_subnet()
    return Cut(pruner.deploy_subnet(supernet, channel_cfg), channel_cfg)


def train_slimming(
    network: nn.Module, images: Images, epochs: float, lr: float, seed: int, options: dict[str, Any]
) -> nn.Module:
    """Train a new network with the penalty of network slimming; return it, plain.

    Args:
        network: Not trained yet; left as it is.
        images: To train on.
        epochs: How long.
        lr: The highest learning rate.
        seed: Of the order of the images.
        options: Of ``SlimmingPenalty``.
    """
    supernet = copy.deepcopy(network)
    pruner = _slimming()
    pruner.prepare_from_supernet(supernet, demo_input(network))
    penalty = SlimmingPenalty(**options, pruner=pruner)
    penalty.found = pruner

    @torch.no_grad()
    def add_gradients(time: float) -> None:
        penalty.time = time
        for parameter, term in penalty.terms():
            assert parameter.grad is not None
            parameter.grad.add_(term)

    train(supernet, images, epochs, lr, seed, add_gradients)
    return pruner.deploy_subnet(supernet, pruner.export_subnet())


def slimmed(network: nn.Module, target: float) -> nn.Module:
    """The network that network slimming leaves at the percent that comes nearest to a target.

    Args:
        network: Trained with the penalty; left as it is.
        target: Multiply-adds.
    """
    supernet = copy.deepcopy(network)
    pruner = _slimming()
    with quiet():
        pruner.prepare_from_supernet(supernet, demo_input(network))

        def made(percent: float) -> tuple[float, Any]:
            pruner.percent = percent
            try:
                return pruner.cost(pruner.pruned_subnet())['macs'], percent
            except InputError:  # beyond the highest safe threshold
                return 0.0, None

        pruner.percent = nearest(target, made)[1]
        pruner.prune()
        return pruner.deploy_subnet(supernet, pruner.export_subnet())


def _slimming() -> NetworkSlimming:
    return PRUNERS.build(
        dict(_scope_='mmprune', type='NetworkSlimming', except_start_keys=['head.fc'])
    )
