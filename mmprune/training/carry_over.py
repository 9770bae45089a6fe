"""Deploy a subnet inside a running training: weights, optimizer states and averages go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmprune.deploy.carry_over import deploy_with_training
from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.errors import InputError
from mmprune.wrappers import unwrap


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
    cfg = as_channel_cfg(channel_cfg)
    model = runner.model
    wrapped = is_model_wrapper(model)
    if wrapped and not isinstance(model, DistributedDataParallel):
        raise InputError(
            f'a {type(model).__name__} cannot be deployed in place: its shards would not follow. '
            'Set deploy=False, and deploy the checkpoint after training'
        )
    optimizers, averages = optimizers_of(runner.optim_wrapper), averaged_models(runner)
    deploy_with_training(unwrap(model), cfg, optimizers, averages)
    if wrapped:
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), model.module)


def optimizers_of(wrapper: Any) -> list[torch.optim.Optimizer]:
    """The optimizers of what a runner has as its ``optim_wrapper``; none before they are built."""
    if isinstance(wrapper, OptimWrapperDict):
        return [w.optimizer for w in wrapper.optim_wrappers.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def loss_scale_of(wrapper: Any) -> float:
    """What a runner's ``optim_wrapper`` multiplies losses by, for mixed precision."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    return 1 if scaler is None else float(scaler.get_scale())


def averaged_models(runner: Runner) -> list[BaseAveragedModel]:
    """The averaged models that a runner's hooks hold."""
    held = (value for hook in runner.hooks for value in vars(hook).values())
    return [value for value in held if isinstance(value, BaseAveragedModel)]


def write_masks(average: BaseAveragedModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Set the subnet of an averaged supernet, whose masks would be averaged otherwise.

    Args:
        average: Of a supernet.
        masks: The supernet's mask buffers, by name.
    """
    network: nn.Module = unwrap(average.module)
    known = network.state_dict()
    network.load_state_dict({k: m for k, m in masks.items() if k in known}, strict=False)
