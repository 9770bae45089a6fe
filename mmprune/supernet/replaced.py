"""Modules that were put in the place of others after a network was prepared."""

from __future__ import annotations

from torch import nn

from mmprune.errors import InputError
from mmprune.execution import Execution, local_tensors
from mmprune.trace.walk import modules_of


class SubnetError(InputError):
    """A subnet that does not fit the supernet."""


def refuse_others(model: nn.Module, execution: Execution) -> None:
    """Refuse modules with other tensors than those that they have replaced.

    With the same ones they can be followed: mmengine's runner replaces every SyncBN so when it does
    not train on several devices.

    Raises:
        SubnetError: A module has other tensors than the network was prepared with, or is gone.
    """
    modules = modules_of(model)
    for name in execution.replaced():
        before, now = execution.modules[name], modules.get(name)
        shapes = [
            {local: tuple(tensor.shape) for local, tensor in local_tensors(module).items()}
            for module in (before, now)
            if module is not None
        ]
        if len(shapes) < 2 or shapes[0] != shapes[1]:
            kind = 'gone' if now is None else f'a {type(now).__name__} with other tensors'
            raise SubnetError(
                f"module '{name}' was a {type(before).__name__} when the network was prepared, and "
                f'is {kind} now: prepare the network again'
            )
