"""Deploy a subnet inside a running training: weights, optimizer states and averages go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmprune.deploy import ChannelCfg, Replaced, deploy_in_place
from mmprune.errors import InputError
from mmprune.pruners.structure_pruner import unwrap


def deploy_in_training(runner: Runner, channel_cfg: Mapping[str, Any]) -> None:
    """Make a runner's model the plain network of a channel config, and let training go on.

    The model's parameters that lose something are replaced by new ones; the optimizers hold those,
    with their states cut alike, and averaged models (mmengine's EMA hook) are cut in
    the same way. A distributed wrapper is made anew around the model.

    Args:
        runner: Training, or about to.
        channel_cfg: Fits the network of the model.

    Raises:
        ChannelCfgError: It does not fit.
        InputError: An optimizer's state, or the wrapper of the model, cannot be carried over.
            Nothing is changed then.
    """
    cfg = ChannelCfg(channel_cfg)
    optimizers = optimizers_of(runner.optim_wrapper)
    for optimizer in optimizers:
        check_states(optimizer)
    model = runner.model
    wrapped = is_model_wrapper(model)
    if wrapped and not isinstance(model, DistributedDataParallel):
        raise InputError(
            f'a {type(model).__name__} cannot be deployed in place: its shards would not follow. '
            'Set deploy=False, and deploy the checkpoint after training'
        )
    averages = averaged_models(runner)
    replaced = deploy_in_place(unwrap(model), cfg)
    for optimizer in optimizers:
        carry_optimizer(optimizer, replaced)
    for average in averages:
        carry_average(average, cfg)
    if wrapped:
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), model.module)


def optimizers_of(wrapper: Any) -> list[torch.optim.Optimizer]:
    """The optimizers of what a runner has as its ``optim_wrapper``; none before they are built."""
    if isinstance(wrapper, OptimWrapperDict):
        return [w.optimizer for w in wrapper.optim_wrappers.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def averaged_models(runner: Runner) -> list[BaseAveragedModel]:
    """The averaged models that a runner's hooks hold."""
    held = (value for hook in runner.hooks for value in vars(hook).values())
    return [value for value in held if isinstance(value, BaseAveragedModel)]


def check_states(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer whose state does not say where a parameter's elements are.

    Raises:
        InputError: A tensor in it has neither the parameter's shape nor is it a single number.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise InputError(
                    f'{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for '
                    f'a parameter of shape {tuple(parameter.shape)}, which cannot be cut with it: '
                    'set deploy=False, and deploy the checkpoint after training'
                )


def carry_optimizer(optimizer: torch.optim.Optimizer, replaced: Iterable[Replaced]) -> None:
    """Give an optimizer the new parameters, with the states and gradients of the old ones.

    Args:
        optimizer: Any whose state ``check_states`` accepts.
        replaced: What ``deploy_in_place`` has replaced.
    """
    by_old = {id(entry.old): entry for entry in replaced}
    for group in optimizer.param_groups:
        entries = [by_old.get(id(parameter)) for parameter in group['params']]
        group['params'] = [
            parameter if entry is None else entry.new
            for parameter, entry in zip(group['params'], entries, strict=True)
        ]
        for entry in filter(None, entries):
            if entry.old.grad is not None:
                entry.new.grad = _part(entry.old.grad, entry)
            if entry.old in optimizer.state:
                state = optimizer.state.pop(entry.old)
                optimizer.state[entry.new] = {
                    name: _part(value, entry) if _is_alike(value, entry.old) else value
                    for name, value in state.items()
                }


def carry_average(average: BaseAveragedModel, cfg: ChannelCfg) -> None:
    """Cut an averaged model like the model that it averages."""
    deploy_in_place(unwrap(average.module), cfg)
    average.avg_parameters = (
        average.module.state_dict()
        if average.update_buffers
        else dict(average.module.named_parameters())
    )


def write_masks(average: BaseAveragedModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Set the subnet of an averaged supernet, whose masks would be averaged otherwise.

    Args:
        average: Of a supernet.
        masks: The supernet's mask buffers, by name.
    """
    network: nn.Module = unwrap(average.module)
    known = network.state_dict()
    network.load_state_dict({k: m for k, m in masks.items() if k in known}, strict=False)


def _is_alike(value: Any, parameter: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim() > 0


def _part(value: torch.Tensor, entry: Replaced) -> torch.Tensor:
    with torch.no_grad():
        return entry.cut(value.detach()).clone(memory_format=torch.contiguous_format)
