"""What a checkpoint holds beside weights, checked before a training goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmprune.errors import InputError
from mmprune.schema import Whole, checked

_ALIKE = ('momentum_buffer', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'grad_avg')
"""What optimizers keep that has the shape of its parameter."""
_NOT_OF_THE_KIND = ('params', 'lr', 'initial_lr')
_NONE: Any = ()


@dataclass(frozen=True)
class _Meta:
    epoch: Whole
    iter: Whole
    seed: Whole | None = None


@dataclass(frozen=True)
class _Saved:
    meta: _Meta
    message_hub: dict[str, dict[str, Any]]
    optimizer: dict[str, Any]
    param_schedulers: list[dict[str, Any]] | dict[str, list[dict[str, Any]]] = _NONE


@dataclass(frozen=True)
class _Optimizer:
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


def check_saved(checkpoint: Mapping[str, Any], path: str) -> None:
    """Refuse a checkpoint whose training state is none.

    Args:
        checkpoint: What was read; it has all parts that are needed to go on.
        path: The file.

    Raises:
        InputError: Names the file, the place in it, and what was expected there.
    """
    parts = {key: checkpoint[key] for key in _Saved.__annotations__ if key in checkpoint}
    meta = checked(dict[str, Any], parts['meta'], f'{path}: meta')
    parts['meta'] = {key: meta[key] for key in _Meta.__annotations__ if key in meta}
    checked(_Saved, parts, path)
    optimizer = checkpoint['optimizer']
    if 'param_groups' in optimizer:  # one optimizer, not several by name
        own = {key: optimizer[key] for key in _Optimizer.__annotations__ if key in optimizer}
        checked(_Optimizer, own, f'{path}: optimizer')


def check_optimizer(runner: Runner, checkpoint: Mapping[str, Any], path: str) -> None:
    """Refuse the state of another optimizer than a runner has; torch would take it, and fail later.

    Args:
        runner: It is about to resume; its optimizer is built here.
        checkpoint: As ``check_saved`` takes it.
        path: The file.

    Raises:
        InputError: Says what differs, and how to go on.
    """
    wrapper = runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    saved = checkpoint['optimizer'].get('param_groups')
    if not isinstance(wrapper, OptimWrapper) or saved is None:
        return
    kind = type(wrapper.optimizer).__name__
    problem = _difference(wrapper.optimizer, saved, checkpoint['optimizer']['state'])
    if problem:
        raise InputError(
            f'{path}: optim_wrapper.optimizer (a {kind}) cannot go on from its state: {problem}. '
            'Give the optimizer that it was trained with, or start a new training from its '
            f'weights: --cfg-options load_from={path}'
        )


def _difference(
    optimizer: torch.optim.Optimizer,
    saved: list[dict[str, Any]],
    state: Mapping[int, Mapping[str, Any]],
) -> str:
    """How a saved state differs from what an optimizer needs; empty if it fits."""
    groups = optimizer.param_groups
    sizes = [[len(group.get('params', ())) for group in each] for each in (groups, saved)]
    if sizes[0] != sizes[1]:
        return f'it has groups of {sizes[1]} parameters, the model {sizes[0]}'
    for mine, theirs in zip(groups, saved, strict=True):
        missing, foreign = _kind(mine) - _kind(theirs), _kind(theirs) - _kind(mine)
        if missing or foreign:
            return f'it has no {", ".join(sorted(missing))}, but {", ".join(sorted(foreign))}'
    parameters = [parameter for group in groups for parameter in group['params']]
    for number, values in state.items():
        if not 0 <= number < len(parameters):
            return f'it is of more than {len(parameters)} parameters'
        for key, value in values.items():
            if not isinstance(value, torch.Tensor):
                continue
            if key in _ALIKE and value.shape != parameters[number].shape:
                shapes = tuple(value.shape), tuple(parameters[number].shape)
                return f'{key} of parameter {number} is of shape {shapes[0]}, not {shapes[1]}'
            if not torch.isfinite(value).all() or (key.endswith('_sq') and (value < 0).any()):
                return f'{key} of parameter {number} has numbers that are none'
    return ''


def _kind(group: Mapping[str, Any]) -> set[str]:
    """Numbers that tell one optimizer from another; flags come with versions of torch."""
    return {
        key
        for key, value in group.items()
        if key not in _NOT_OF_THE_KIND and isinstance(value, int | float | tuple | list)
        if not isinstance(value, bool)
    }
