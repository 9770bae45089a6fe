"""What a checkpoint holds beside weights, checked before a training goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmprune.errors import InputError
from mmprune.schema import Whole, checked, shown
from mmprune.weights import unusable

_ALIKE = ('momentum_buffer', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'grad_avg')
"""What optimizers keep that has the shape of its parameter."""
_NOT_OF_THE_KIND = ('params', 'lr', 'initial_lr')
OPTIMIZER_KEY = 'mmprune_optimizer'
"""Where a checkpoint names the class of its optimizer."""
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

    def __post_init__(self) -> None:
        if not all(isinstance(group.get('params'), list) for group in self.param_groups):
            raise ValueError('a group of parameters has none')


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
    named = checkpoint.get(OPTIMIZER_KEY, kind)
    problem = _difference(wrapper.optimizer, saved, checkpoint['optimizer']['state'])
    if not problem and named != kind:  # some keep other things under the same options
        problem = f'it is that of a {shown(named)}'
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
        if missing:  # schedulers put more into a group
            return f'it has no {", ".join(sorted(missing))}, but {", ".join(sorted(foreign))}'
        for key in mine.keys() & theirs.keys():
            if _is_number(mine[key]) and not _is_number(theirs[key]):
                return f'its {key} is {shown(theirs[key])}'
    parameters = [parameter for group in groups for parameter in group['params']]
    owners = [number for number, group in enumerate(groups) for _ in group['params']]
    if any(not 0 <= number < len(parameters) for number in state):
        return f'it is of more than {len(parameters)} parameters'
    kept = {(owners[number], key) for number, values in state.items() for key in values}
    for number, values in state.items():
        gaps = [key for owner, key in kept if owner == owners[number] and key not in values]
        if values and gaps:
            return f'parameter {number} has no {min(gaps)}'
        for key, value in values.items():
            problem = _misfit(key, value, parameters[number])
            if problem:
                return f'{key} of parameter {number} {problem}'
    return ''


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _misfit(key: str, value: Any, parameter: torch.Tensor) -> str:
    """Why a value cannot be what an optimizer remembers of a parameter; empty if it can."""
    if key in _ALIKE and value is not None:
        problem = unusable(value)
        if problem:
            return problem
        if value.shape != parameter.shape:
            return f'is of shape {tuple(value.shape)}, not {tuple(parameter.shape)}'
    if isinstance(value, torch.Tensor) and (
        not torch.isfinite(value).all() or (key.endswith('_sq') and (value < 0).any())
    ):
        return 'has numbers that are none'
    return ''


def _kind(group: Mapping[str, Any]) -> set[str]:
    """Numbers that tell one optimizer from another; flags come with versions of torch."""
    return {
        key
        for key, value in group.items()
        if key not in _NOT_OF_THE_KIND and isinstance(value, int | float | tuple | list)
        if not isinstance(value, bool)
    }
