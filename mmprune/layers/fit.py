"""Which layer no longer fits, after layers were cut by hand."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.layers.surgery import called as named
from mmprune.layers.surgery import channels_of, rule_of
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS
from mmprune.trace.model_state import modes_kept

_ALONG_DIM_1 = (*CONVS, *TRANSPOSED_CONVS, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU)


def check_fits(model: nn.Module, *inputs: Any) -> Any:
    """Run a network once and say which layer no longer fits, if one does not.

    Args:
        model: The network after its layers were cut.
        inputs: What to call it with.

    Returns:
        What the network gives.

    Raises:
        InputError: A layer gets another number of channels than it has inputs for, or the network
            fails otherwise; the message names the layer and both numbers.
    """
    called: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    with ExitStack() as stack, modes_kept(model), torch.no_grad():
        for name, module in model.named_modules():

            def enter(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                called.append((name, module, args))

            def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                called.pop()

            stack.enter_context(module.register_forward_pre_hook(enter))
            stack.enter_context(module.register_forward_hook(leave))
        try:
            return model.eval()(*inputs)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise InputError(_misfit(*called[-1], error) if called else str(error)) from error


def _misfit(name: str, module: nn.Module, args: tuple[Any, ...], error: Exception) -> str:
    where = named(module, name or 'the network itself')
    shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
    if rule_of(module) is not None and shapes:
        dim = 1 if isinstance(module, _ALONG_DIM_1) and len(shapes[0]) > 1 else -1
        given, wanted = shapes[0][dim], channels_of(module, 'in', name)
        if given != wanted:
            return (
                f'{where}: reads {wanted} channels, but is given {given}: cut its inputs with '
                'prune_in_channels as the layers before it were cut, or let pruner.plan do it all'
            )
    return (
        f'{where}: fails on inputs of shapes {shapes}: {str(error).strip()}. Layers whose outputs '
        'meet (a sum, say) must lose the same channels; pruner.plan finds them'
    )
