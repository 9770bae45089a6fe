"""Make a supernet follow what is done to its model: state dicts, and modules that are replaced."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError
from mmprune.execution.mask_buffers import MaskBuffers


class Follower(Protocol):
    """What follows: a supernet."""

    masks: MaskBuffers

    @property
    def is_current(self) -> bool:
        """Whether the model is still prepared by it."""
        ...

    def check_alive(self, alive: BoolArray, source: str) -> None:
        """Refuse labels that are no valid subnet."""

    def refresh(self) -> None:
        """Take over the subnet of the mask buffers."""

    def follow_replaced(self) -> None:
        """Take modules that were put in the place of others, or refuse them."""


class Follow:
    """The hooks of a supernet on its model.

    Before anything is loaded, the masks in the state dict are checked. A state dict without
    masks, a plain network's, is one of the full width. Afterwards the supernet runs as the
    subnet of its masks. Before the model is run, loaded or written to a state dict, modules that
    were replaced are seen to. A deep copy of the model has hooks and a supernet of its own.
    """

    def __init__(self, supernet: Follower) -> None:
        self.supernet = supernet

    def attach(self, model: nn.Module) -> None:
        """Register the hooks on the supernet's model."""
        model._register_load_state_dict_pre_hook(self.before, with_module=True)
        model.register_load_state_dict_post_hook(self.after)
        model.register_state_dict_pre_hook(self.see_to_modules)
        model.register_forward_pre_hook(self.see_to_modules)

    def see_to_modules(self, module: nn.Module, *_: Any) -> None:
        """Follow modules that were replaced, or refuse them."""
        if getattr(module, '_is_replica', False):  # its layers would run on the first device
            raise InputError(
                f'{type(module).__name__}: nn.DataParallel copies a network for several devices, '
                'which a supernet cannot follow: take DistributedDataParallel, one device '
                '(device_ids=[0]), or deploy it first'
            )
        if not torch.compiler.is_compiling():
            self.supernet.follow_replaced()

    def before(
        self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any, **__: Any
    ) -> None:
        """Check the masks of ``state``, and add those that it lacks."""
        self.supernet.follow_replaced()
        if self.supernet.is_current:
            alive = self.supernet.masks.read_state(state, prefix)
            self.supernet.check_alive(alive, 'the masks of the state dict')
            self.supernet.masks.fill(state, prefix)

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Run as the subnet that was loaded."""
        if self.supernet.is_current:
            self.supernet.refresh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Follow:
        return Follow(copy.deepcopy(self.supernet, memo))


def stores_of_hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """Where a module keeps the hooks of the kinds that a supernet has."""
    return (
        module._load_state_dict_pre_hooks,
        module._load_state_dict_post_hooks,
        module._state_dict_pre_hooks,
        module._forward_pre_hooks,
    )


def followers(module: nn.Module) -> list[Follow]:
    """What follows the state dicts that are loaded into a module."""
    found = [_follower(hook) for hooks in stores_of_hooks(module) for hook in hooks.values()]
    return [follower for follower in found if follower is not None]


def detach_hooks(module: nn.Module) -> None:
    """Take the hooks of a supernet off its model."""
    for hooks in filter(None, stores_of_hooks(module)):
        for number in [number for number, hook in hooks.items() if _follower(hook) is not None]:
            del hooks[number]


def _follower(hook: Any) -> Follow | None:
    owner = getattr(getattr(hook, 'hook', hook), '__self__', None)
    return owner if isinstance(owner, Follow) else None
