"""What belongs to the tensors of a network that is deployed in place: optimizers, averages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmprune.deploy.deployer import Replaced, deploy_in_place
from mmprune.deploy.entries import ChannelCfg
from mmprune.errors import InputError
from mmprune.wrappers import unwrap


def deploy_with_training(
    model: nn.Module,
    cfg: ChannelCfg,
    optimizers: Iterable[torch.optim.Optimizer],
    averages: Iterable[nn.Module],
) -> None:
    """Make a network the plain one of a channel config, with all that a training holds of it.

    Args:
        model: The network.
        cfg: Fits it.
        optimizers: Get the new parameters, with the states and gradients of the old ones.
        averages: Copies of the network, or what holds one as ``.module``, which are cut like it.

    Raises:
        ChannelCfgError: The config does not fit. Nothing is changed then.
        InputError: The state of an optimizer cannot be cut, or an average is no copy of the
            network. Nothing is changed then.
    """
    optimizers = list(optimizers)
    networks = [(average, unwrap(getattr(average, 'module', average))) for average in averages]
    for optimizer in optimizers:
        _check_states(optimizer)
    for _, network in networks:
        _check_average(network, model)
    replaced = deploy_in_place(model, cfg)
    for optimizer in optimizers:
        _carry_optimizer(optimizer, replaced)
    for average, network in networks:
        _carry_average(average, network, cfg)


def _check_states(optimizer: torch.optim.Optimizer) -> None:
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


def _check_average(average: nn.Module, model: nn.Module) -> None:
    """Refuse an averaged network that is no copy of the model.

    Raises:
        InputError: A parameter of the model is missing in it, or has another shape.
    """
    shapes = {name: tuple(p.shape) for name, p in average.named_parameters()}
    for name, parameter in model.named_parameters():
        if shapes.get(name) != tuple(parameter.shape):
            found = f'has it of shape {shapes[name]}' if name in shapes else 'does not have it'
            raise InputError(
                f"an average cannot be cut like the model: '{name}' is of shape "
                f'{tuple(parameter.shape)}, and the {type(average).__name__} {found}. Give a copy '
                'of the network that was prepared'
            )


def _carry_optimizer(optimizer: torch.optim.Optimizer, replaced: Iterable[Replaced]) -> None:
    """Give an optimizer the new parameters, with the states and gradients of the old ones.

    Args:
        optimizer: Any whose state ``_check_states`` accepts.
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


def _carry_average(average: Any, network: nn.Module, cfg: ChannelCfg) -> None:
    """Cut an averaged model, which holds a copy of the network, like the model that it averages."""
    deploy_in_place(network, cfg)
    if hasattr(average, 'avg_parameters'):  # mmengine's hold their tensors a second time
        average.avg_parameters = (
            average.module.state_dict()
            if average.update_buffers
            else dict(average.module.named_parameters())
        )


def _is_alike(value: Any, parameter: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim() > 0


def _part(value: torch.Tensor, entry: Replaced) -> torch.Tensor:
    with torch.no_grad():
        return entry.cut(value.detach()).clone(memory_format=torch.contiguous_format)
