"""What a checkpoint holds beside weights, checked before a training goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmprune.config import changes, plain
from mmprune.errors import InputError, listed
from mmprune.schema import Whole, checked, shown
from mmprune.weights import unusable

_ALIKE = ('momentum_buffer', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'grad_avg')
"""What optimizers keep that has the shape of its parameter."""
_NOT_OF_THE_KIND = ('params', 'lr', 'initial_lr')
OPTIMIZER_KEY = 'mmprune_optimizer'
"""Where a checkpoint names the class of its optimizer."""
SETTINGS_KEY = 'mmprune_settings'
"""Where it has the parts of the config that decide what a training does."""
_SETTINGS = (
    *('model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    *('param_scheduler', 'custom_hooks', 'auto_scale_lr'),
)
_LISTED = 8
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
    if 'param_groups' in checkpoint['optimizer']:  # one optimizer, not several by name
        _checked_state(checkpoint['optimizer'], f'{path}: ')


def saved_by_hook(checkpoint: Mapping[str, Any], key: str, kind: Any, path: Any) -> Any:
    """What a hook has put into a checkpoint, as the type that it must have; None without any.

    Raises:
        InputError: It is something else; names the file and the place.
    """
    return checked(kind, checkpoint[key], f'{path}: {key}') if key in checkpoint else None


def check_tensors(
    tensors: Mapping[Any, Any],
    shapes: Mapping[Any, Sequence[int]],
    where: str,
    any_numbers: bool = False,
) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        tensors: By name.
        shapes: What there is in the network.
        where: The file, and the place in it.
        any_numbers: Whether they may be NaN or infinite.

    Raises:
        InputError: Names one that is unknown, of another shape or type, or holds no numbers.
    """
    for name, value in tensors.items():
        problem = 'is not of this network'
        if name in shapes:
            problem = _misfit(value, shapes[name], any_numbers)
        if not problem and not value.is_floating_point():
            problem = f'is of the type {value.dtype}'
        if problem:
            raise InputError(f'{where}: {name} {problem}')


def settings_of(cfg: Config) -> dict[str, Any]:
    """What decides what a training does, as plain data."""
    return {key: plain(cfg.get(key)) for key in _SETTINGS}


def warn_of_changes(
    runner: Runner, seed: int | None, checkpoint: Mapping[str, Any], path: str
) -> None:
    """Say with which other settings than before a training goes on, and if nothing is left of it.

    Args:
        runner: It is about to resume.
        seed: That of the config, if it has one; that of the checkpoint is taken.
        checkpoint: What was read.
        path: The file.
    """
    meta, loop = checkpoint['meta'], runner.cfg.train_cfg
    before = saved_by_hook(checkpoint, SETTINGS_KEY, dict[str, Any], path)
    changed = {} if before is None else changes(before, settings_of(runner.cfg))
    if seed not in (None, meta.get('seed')):
        changed['randomness.seed'] = f'was {meta.get("seed")}, is {seed}'
    if changed:
        told = listed((f'{key} {text}' for key, text in changed.items()), _LISTED)
        runner.logger.warning(
            f'{path}: the training goes on with other settings than it began with: {told}. What '
            'optimizers and schedules keep, such as learning rates, and the seed, are those of the '
            'checkpoint; all else is as the config says'
        )
    for unit, most in (('epoch', loop.get('max_epochs')), ('iter', loop.get('max_iters'))):
        if most is not None and meta[unit] >= most:
            runner.logger.warning(f'{path}: has {unit} {meta[unit]} of {most}: nothing is left')


def check_optimizer(runner: Runner, checkpoint: Mapping[str, Any], path: str) -> None:
    """Refuse the state of another optimizer than a runner has; torch would take it, and fail later.

    Args:
        runner: It is about to resume; its optimizers are built here.
        checkpoint: As ``check_saved`` takes it.
        path: The file.

    Raises:
        InputError: Says what differs, and how to go on.
    """
    wrapper = runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    content = checkpoint['optimizer']
    if isinstance(wrapper, OptimWrapper):
        check_state(wrapper.optimizer, content, f'{path}: ', checkpoint.get(OPTIMIZER_KEY))
        return
    for name, part in wrapper.items():
        state = checked(dict[str, Any], content.get(name), f'{path}: optimizer.{name}')
        check_state(part.optimizer, state, f'{path}: {name}: ')


def check_schedulers(own: Any, saved: Any, path: Any) -> None:
    """Refuse the state of other schedules, which mmengine would mix with those that there are.

    Args:
        own: A runner's ``param_schedulers``.
        saved: Those of a checkpoint.
        path: The file.

    Raises:
        InputError: Says what differs, and how to go on.
    """
    mine, theirs = schedules_in(own), schedules_in(saved)
    problem = f'{len(theirs)}, and the config has {len(mine)}'
    if len(mine) == len(theirs):
        problem = next(filter(None, map(_other_schedule, mine, theirs)), '')
    if problem:
        raise InputError(
            f'{path}: its param_schedulers are {problem}. Give the param_scheduler that it was '
            'trained with, or start a new training from its weights: --cfg-options load_from=FILE'
        )


def schedules_in(schedulers: Any) -> list[Any]:
    """Schedules, or their states, which are in lists by name if there are several optimizers."""
    parts = schedulers.values() if isinstance(schedulers, Mapping) else [schedulers or ()]
    return [each for part in parts for each in part]


def _other_schedule(mine: Any, theirs: Mapping[str, Any]) -> str:
    """Why a state is not that of a schedule; empty if it is."""
    state = {key: value for key, value in mine.state_dict().items() if not callable(value)}
    if state.keys() != theirs.keys():
        return f'of another kind than {type(mine).__name__}'
    for key, value in state.items():
        other = theirs[key]
        if (_is_number(value) and not _is_number(other)) or isinstance(value, str) > (
            value == other
        ):
            return f'none: {key} of {type(mine).__name__} is {shown(other)}'
    return ''


def check_state(
    optimizer: torch.optim.Optimizer, content: Mapping[str, Any], path: str, named: Any = None
) -> None:
    """Refuse the state of another optimizer.

    Args:
        optimizer: It is to have it.
        content: Its state.
        path: The file, and the place in it.
        named: The class of the optimizer that it is of.

    Raises:
        InputError: Says what differs, and how to go on.
    """
    kind = type(optimizer).__name__
    state = _checked_state(content, path)
    problem = _difference(optimizer, state.param_groups, state.state)
    if not problem and named not in (None, kind):  # some keep other things under the same options
        problem = f'it is that of a {shown(named)}'
    if problem:
        raise InputError(
            f'{path}optim_wrapper.optimizer (a {kind}) cannot go on from its state: {problem}. '
            'Give the optimizer that it was trained with, or start a new training from its '
            'weights: --cfg-options load_from=FILE'
        )


def _checked_state(content: Mapping[str, Any], path: str) -> _Optimizer:
    own = {key: content[key] for key in _Optimizer.__annotations__ if key in content}
    found: _Optimizer = checked(_Optimizer, own, f'{path}optimizer')
    return found


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
            problem = _unlike(key, value, parameters[number])
            if problem:
                return f'{key} of parameter {number} {problem}'
    return ''


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _unlike(key: str, value: Any, parameter: torch.Tensor) -> str:
    """Why a value cannot be what an optimizer remembers of a parameter; empty if it can."""
    if not isinstance(value, torch.Tensor) and (key not in _ALIKE or value is None):
        return ''
    problem = _misfit(value, parameter.shape if key in _ALIKE else None)
    if not problem and key.endswith('_sq') and (value < 0).any():
        return 'has numbers that are none'
    return problem


def _misfit(value: Any, shape: Sequence[int] | None, any_numbers: bool = False) -> str:
    """Why a value is no tensor of this shape with numbers in it; empty if it is."""
    problem = unusable(value)
    if not problem and shape is not None and tuple(value.shape) != tuple(shape):
        return f'is of shape {tuple(value.shape)}, not {tuple(shape)}'
    if problem or any_numbers or torch.isfinite(value).all():
        return problem
    return 'has numbers that are none'


def _kind(group: Mapping[str, Any]) -> set[str]:
    """Numbers that tell one optimizer from another; flags come with versions of torch."""
    return {
        key
        for key, value in group.items()
        if key not in _NOT_OF_THE_KIND and isinstance(value, int | float | tuple | list)
        if not isinstance(value, bool)
    }
