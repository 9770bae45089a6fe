"""Modules that were put in the place of others after a network was prepared."""

from __future__ import annotations

from torch import nn

from mmprune.errors import InputError
from mmprune.execution import Execution, local_tensors
from mmprune.trace.walk import modules_of


class SubnetError(InputError):
    """A subnet that does not fit the supernet."""


def refuse_others(model: nn.Module, execution: Execution) -> None:
    """Refuse modules that do something else than those that they have replaced.

    Norms over batches are all alike: mmengine's runner replaces every SyncBN by another one when it
    does not train on several devices. Other modules must be of the same class. What stands in the
    place of a layer of which nothing can be pruned is not looked at.

    Raises:
        SubnetError: A module has other tensors than the network was prepared with, is of another
            kind, or is gone.
    """
    modules = modules_of(model)
    untouched = [
        f'{name}.'
        for name, before in execution.modules.items()
        if name not in execution.states and local_tensors(before)
    ]
    changed = set(execution.places.changed())
    for name, before in execution.modules.items():
        now, kind = modules.get(name), execution.places.kind(name)
        is_known = now is before and name not in changed
        if is_known or any(f'{name}.'.startswith(prefix) for prefix in untouched):
            continue
        problem = _problem(before, now, kind)
        if problem:
            raise SubnetError(
                f"module '{name}' was a {kind.__name__} when the network was prepared, and "
                f'{problem} now, which a supernet cannot follow: do that before the network is '
                'prepared or after it is deployed, or prepare it again'
            )


def _problem(before: nn.Module, now: nn.Module | None, kind: type) -> str:
    """What a module that is there now is, if it cannot be followed."""
    if now is None:
        return 'is gone'
    shapes = [
        {local: tuple(tensor.shape) for local, tensor in local_tensors(module).items()}
        for module in (before, now)
    ]
    if now is before or shapes[0] != shapes[1]:
        return f'is a {type(now).__name__} with other tensors'
    if type(now) is kind or {'running_mean', 'running_var'} <= shapes[0].keys():
        return ''
    return f'is a {type(now).__name__}'


def own_numbers(model: nn.Module, execution: Execution) -> None:
    """Give modules that were made at a subnet's width the numbers of the full network."""
    modules = modules_of(model)
    for name, state in execution.states.items():
        before, now = execution.modules[name], modules[name]
        if now is not before:
            for attribute, own in state.attributes.items():
                if getattr(now, attribute, None) == getattr(before, attribute):
                    setattr(now, attribute, own)
