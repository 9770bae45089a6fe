"""What the numbers of a network must be: finite, of a real type, and in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mmprune.errors import InputError

_LISTED = 5


def digest_of_weights(state: Mapping[str, Any]) -> str:
    """What tells the tensors of a state dict, by names and values, from others."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if isinstance(state[name], Tensor):
            digest.update(name.encode())
            value = state[name].detach().cpu().contiguous().reshape(-1)
            digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_weights(model: nn.Module, source: str, given: Mapping[str, Any] | None = None) -> None:
    """Refuse weights that cannot be computed with, or that no training leaves.

    Looked at are the parameters and the statistics of norms. Other buffers may hold anything: a
    mask of attention is infinite.

    Args:
        model: The network that has them, or that is to have those that are given.
        source: Where they are from: a file, or a kind of network.
        given: Name -> value, if they are not the network's own; names that are missing are
            passed over.

    Raises:
        InputError: Names the source and the first tensors, with how many of their numbers are
            not finite or negative.
    """
    own = dict(_trained(model))
    tensors = own if given is None else {name: given[name] for name in own if name in given}
    problems = {
        name: unusable(t) or (_of_other_type(t, own[name]) if given is not None else '')
        for name, t in tensors.items()
    }
    wrong = [f'{name}: {problem}' for name, problem in problems.items() if problem]
    # A number may be finite in the file, and none in the type of the network.
    suspects = {} if wrong else tensors
    if given is not None:
        suspects = {name: t.to(own[name].dtype) for name, t in suspects.items()}
    if suspects and not _sums_are_finite(suspects.values()):
        wrong += [f'{name}: {text}' for name, t in suspects.items() if (text := _not_finite(t))]
    wrong += [
        f'{name}: {int((tensor < 0).sum())} of {tensor.numel()} variances are negative'
        for name, tensor in suspects.items()
        if name.rpartition('.')[2] == 'running_var' and bool((tensor < 0).any())
    ]
    if wrong:
        more = f'\n  ... and {len(wrong) - _LISTED} more' if len(wrong) > _LISTED else ''
        listed = '\n  '.join(wrong[:_LISTED])
        raise InputError(f'{source}: holds weights that nothing can be made of.\n  {listed}{more}')


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and running statistics, by name."""
    yield from model.named_parameters(remove_duplicate=False)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name.rpartition('.')[2] in ('running_mean', 'running_var'):
            yield name, buffer


def unusable(value: Any) -> str:
    """Why a value is no tensor to compute with, whatever its numbers are; empty if it is."""
    if not isinstance(value, Tensor):
        return f'is a {type(value).__name__}, not a tensor'
    if is_lazy(value):
        return 'has no shape yet: run the network once'
    if value.is_meta:
        return 'has no numbers, it is on the device "meta": load or initialise it first'
    if value.is_quantized or value.is_nested or value.layout != torch.strided:
        kind = 'quantised' if value.is_quantized else f'of the layout {value.layout}'
        kind = 'nested' if value.is_nested else kind
        return f'is {kind}: give dense weights of a floating type'
    return ''


def _of_other_type(value: Tensor, own: Tensor) -> str:
    for what, test in (('floating', torch.is_floating_point), ('complex', torch.is_complex)):
        if test(value) != test(own):
            return f'is of the type {value.dtype}, the network has {own.dtype} ({what} or not)'
    return ''


def _sums_are_finite(tensors: Any) -> bool:
    """Whether all are finite, by their sums: one pass over the memory."""
    sums: dict[Any, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel():
                sums.setdefault((tensor.device, tensor.dtype), []).append(tensor.sum())
        return all(bool(torch.isfinite(torch.stack(own)).all()) for own in sums.values())


def _not_finite(tensor: Tensor) -> str:
    """How many numbers of a tensor are none."""
    nan, all_bad = int(torch.isnan(tensor).sum()), int((~torch.isfinite(tensor)).sum())
    if not all_bad:
        return ''
    return f'{nan} NaN and {all_bad - nan} infinite of {tensor.numel()} numbers'
