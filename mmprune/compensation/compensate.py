"""Give a pruned network weights that make up for what was removed, from images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from mmprune.compensation.full_run import FullRun
from mmprune.compensation.methods import Compensation
from mmprune.compensation.progress import progress_bar
from mmprune.compensation.report import CompensationReport
from mmprune.compensation.small_run import SmallRun
from mmprune.compensation.units import Unit, units_of
from mmprune.deploy import ChannelCfg, deploy
from mmprune.deploy.channel_cfg import FORMAT, as_channel_cfg
from mmprune.deploy.entries import FORMAT_KEY
from mmprune.errors import InputError, of_others
from mmprune.execution.instrument import STATE
from mmprune.registry import COMPENSATIONS
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS
from mmprune.trace.model_state import modes_kept, renew_caches
from mmprune.trace.tracer import run_model

Forward = Callable[[nn.Module, Any], Any]
"""``forward(model, batch)`` runs a model on a batch and returns what it gives."""


def compensate(
    full: nn.Module,
    small: nn.Module,
    channel_cfg: Mapping[str, Any] | str | Path,
    data: Any,
    method: str | Mapping[str, Any] | Compensation = 'LeastSquares',
    forward: Forward | None = None,
) -> CompensationReport:
    """Change the weights of a pruned network so that its layers give what the full one's give.

    In order of execution, every layer that reads fewer channels than in the full network is
    solved for what it reads in the pruned network as it is by then. Norms keep the full network's
    statistics of the channels that they have, so do not recalibrate them before. The full
    network runs once over the images, the small one once, and once more for every weight that
    is used several times in a pass. All batches are in memory at once, at one layer.

    Args:
        full: The network before pruning, prepared or plain; it is left as it was.
        small: The pruned network, a plain one, wherever it was pruned; its weights are changed in
            place.
        channel_cfg: Which channels of ``full`` it has: a channel config or a file of one.
        data: Inputs without labels: a batch as a model takes it (a tensor, a tuple of
            arguments, a dict of keywords), or a list, loader or other iterable of batches.
        method: Name or config in ``COMPENSATIONS``, or an instance.
        forward: Runs a model on one batch, where its inputs are only a part of it.

    Returns:
        What was changed, and what was not and why.

    Raises:
        ChannelCfgError: The config does not fit the full network.
        InputError: The small network is not the config's, there are no images, or a network
            cannot be run on them.
    """
    method = built_method(method)
    batches = batches_of(data)
    cfg = as_channel_cfg(channel_cfg)
    full = _plain(full)
    units = units_of(full, small, cfg)
    run = forward or run_model
    jobs = [_job(number, batch, run) for number, batch in enumerate(batches)]
    with progress_bar() as stage, modes_kept(small):
        tick = stage('full network', len(jobs))
        watched = FullRun(full, units, method, len(jobs))
        watched.run(jobs, tick)
        order = [unit for unit in watched.order if unit.is_watched and not unit.left]
        solving = SmallRun(small, order, method, stage('compensating layers', len(order)))
        solving.run(jobs)
    renew_caches(small)
    lost = [unit for unit in units if unit.loses_inputs or not (unit.kind or unit.cut.is_whole)]
    left = {unit.name: unit.left for unit in lost if unit.left}
    left.update(_uncalled(units, small, cfg))
    return CompensationReport(type(method).__name__, solving.fits, left)


def built_method(method: str | Mapping[str, Any] | Compensation) -> Compensation:
    """A method from its name or config, or the one that is given.

    Raises:
        InputError: There is no such method, or it takes no such options.
    """
    if isinstance(method, Compensation):
        return method
    config = dict(type=method) if isinstance(method, str) else method
    if isinstance(config, Mapping):
        config = {'_scope_': 'mmprune', **config}
    return COMPENSATIONS.build(config)


def run_inputs(model: nn.Module, batch: Any) -> Any:
    """A ``forward`` for loaders of (inputs, labels): runs a model on the inputs."""
    return run_model(model, batch[0] if isinstance(batch, list | tuple) else batch)


def batches_of(data: Any) -> Sequence[Any]:
    """The batches of what a person gave as images.

    Raises:
        InputError: There are none.
    """
    if isinstance(data, torch.Tensor | tuple | Mapping):
        return [data]
    if not isinstance(data, Iterable):
        raise InputError(
            'data: expected a batch (a tensor, a tuple of arguments, a dict of keywords) or an '
            f'iterable of batches, not a {type(data).__name__}'
        )
    batches = list(data)
    if not batches:
        raise InputError('data: there are no batches to compensate with')
    return batches


def _job(number: int, batch: Any, run: Forward) -> Callable[[nn.Module], Any]:
    def job(model: nn.Module) -> Any:
        tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
        if tensors and not any(leaf.numel() for leaf in tensors):
            raise InputError(f'data: batch {number} is empty')
        device = next((p.device for p in model.parameters()), torch.device('cpu'))
        with of_others(
            f'data: {type(model).__name__} cannot be run on batch {number}',
            'A batch is what the model takes, without labels; otherwise say what to run: '
            'forward=lambda model, batch: model(batch[0])',
        ):
            moved = tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, batch)
            return run(model, moved)

    return job


def _plain(full: nn.Module) -> nn.Module:
    """The full network itself, or a plain copy of full width if it is a supernet."""
    if not any(STATE in module.__dict__ for module in full.modules()):
        return full
    return deploy(full, ChannelCfg({FORMAT_KEY: dict(FORMAT)}))


def _uncalled(units: Sequence[Unit], small: nn.Module, cfg: ChannelCfg) -> dict[str, str]:
    """Layers that read fewer channels, but whose weight no function was seen to read."""
    found, modules = {}, dict(small.named_modules(remove_duplicate=False))
    for unit in units:
        name = unit.name.split('.parametrizations.')[0].removesuffix('.weight_v')
        entry, module = cfg.get(name, {}), modules.get(name)
        loses = entry.get('in_channels', 0) < entry.get('raw_in_channels', 0)
        is_layer = isinstance(module, (*CONVS, *TRANSPOSED_CONVS, nn.Linear))
        if loses and is_layer and not unit.kind and not unit.left:
            found[name] = 'is not called, or its weight is computed from other tensors'
    return found
