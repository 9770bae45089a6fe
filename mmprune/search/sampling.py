"""What to try next, and what to leave: any sampler and pruner of Optuna, over levels of widths.

The study is in memory, and nothing that a sampler draws depends on anything but its seed and what
it was told. So a search that is run again from its start, with every evaluation answered by the
history, proposes the same subnets again, and no state of a sampler is ever stored.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from mmprune.building import check_options
from mmprune.dependencies import require
from mmprune.errors import InputError, nearest

_LARGEST_GRID = 100_000
# No samplers, or such as need each parameter written into a trial.
_OTHERS = ('BaseSampler', 'BaseGASampler', 'BruteForceSampler', 'PartialFixedSampler', 'nsgaii')


class Sampling:
    """Proposes levels of widths, and learns from what was evaluated in their place.

    A proposal may be repaired before it is evaluated; the sampler is told of the repaired one, and
    never of the proposal.

    Args:
        sampler: A class of ``optuna.samplers``, with or without ``Sampler``: ``'NSGAII'``,
            ``'TPE'``, ``'CmaEs'``, ``'Random'``, ``'QMC'``, ``'Grid'``.
        options: Its own options.
        seed: Of what it draws.
        sizes: How many levels each group has.
        num_objectives: How many values are minimised.

    Raises:
        InputError: Optuna is not installed, there is no such sampler, it does not take such
            options, or a grid is too large to be listed.
    """

    def __init__(
        self,
        sampler: str,
        options: Mapping[str, Any],
        seed: int,
        sizes: Mapping[str, int],
        num_objectives: int = 1,
    ) -> None:
        self._optuna = optuna = require('optuna', f'the sampler {sampler!r} of a search')
        distributions = optuna.distributions
        self._distributions = {
            name: distributions.IntDistribution(0, size - 1) for name, size in sizes.items()
        }
        with quiet():
            self.study = optuna.create_study(
                sampler=self._built(sampler, dict(options), seed, sizes),
                directions=['minimize'] * num_objectives,
            )
        self.is_exhausted = False
        """Whether the sampler has proposed all that it ever will."""

    def _built(
        self, name: str, options: dict[str, Any], seed: int, sizes: Mapping[str, int]
    ) -> Any:
        kind = class_of_optuna(self._optuna.samplers, name, 'Sampler', _OTHERS)
        full = kind.__name__
        if full == 'GridSampler':
            if prod(sizes.values()) > _LARGEST_GRID:
                raise InputError(
                    f'a grid of {prod(sizes.values()):,} subnets cannot be searched: give a few '
                    f'shares, shares=[0.5, 1.0], so that there are no more than {_LARGEST_GRID:,}'
                )
            options.setdefault('search_space', {s: list(range(n)) for s, n in sizes.items()})
        if full == 'CmaEsSampler':
            require('cmaes', 'CmaEsSampler')
        options.setdefault('seed', seed)
        return built_by_optuna(kind, options, 'sampler_options')

    def start_from(self, levels: Sequence[int]) -> None:
        """Have ``ask`` propose these levels before any of the sampler's own."""
        with quiet():
            self.study.enqueue_trial(dict(zip(self._distributions, levels, strict=True)))

    def ask(self) -> tuple[list[int], Mapping[str, Any]]:
        """Levels to try, and what the sampler wants to know again when it is told of them."""
        with quiet():
            # Nothing is written into this trial: to do that for each group takes most of the time.
            trial = self.study.ask()
            relative = trial.relative_params  # puts into the trial what the sampler wants to know
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            given = {**relative, **frozen.system_attrs.get('fixed_params', {})}
            levels = [
                given[name]
                if name in given
                else self.study.sampler.sample_independent(self.study, frozen, name, distribution)
                for name, distribution in self._distributions.items()
            ]
            noted = {k: v for k, v in frozen.system_attrs.items() if k != 'fixed_params'}
            try:
                # What is told is another trial: this one is of the proposal.
                self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            except RuntimeError:  # how a sampler stops, for which there must be a loop of Optuna's
                self.is_exhausted = True
        return levels, noted

    def tell(
        self, levels: Sequence[int], values: Sequence[float], noted: Mapping[str, Any]
    ) -> None:
        """Tell what was evaluated in the place of a proposal.

        Args:
            levels: What was evaluated.
            values: The objectives, smaller ones better; infinite where nothing could be measured.
            noted: As ``ask`` gave it.
        """
        with quiet():
            trial = self._optuna.trial.create_trial(
                params=dict(zip(self._distributions, levels, strict=True)),
                distributions=self._distributions,
                values=list(values),
                system_attrs=dict(noted),
            )
            self.study.add_trial(trial)


def class_of_optuna(module: Any, name: str, kind: str, left_out: Sequence[str]) -> type:
    """A class of a module of Optuna's, by its name with or without what it is.

    Args:
        module: ``optuna.samplers``, ``optuna.pruners``.
        name: ``'TPE'``, ``'TPESampler'``.
        kind: ``'Sampler'``.
        left_out: What else the module has.

    Raises:
        InputError: There is no such class.
    """
    known = [each for each in module.__all__ if each.endswith(kind) and each not in left_out]
    full = name if name.endswith(kind) else f'{name}{kind}'
    if full not in known:
        raise InputError(f'{module.__name__} has no {full}; {nearest(full, known, 20)}')
    return getattr(module, full)


def built_by_optuna(kind: type, options: Mapping[str, Any], key: str) -> Any:
    """An object of a class of Optuna's.

    Args:
        kind: The class.
        options: Its arguments.
        key: What the config calls them.

    Raises:
        InputError: It does not take such options.
    """
    where = f'{key} ({kind.__name__})'
    check_options(kind, options, where)
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f'{where}: {error}') from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's words on studies, experimental parts and infinite values."""
    logger = logging.getLogger('optuna')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


class Hopeless:
    """A pruner of Optuna's, asked after a few batches of a candidate's images.

    Args:
        type: A class of ``optuna.pruners``, with or without ``Pruner``: ``'Median'``,
            ``'Percentile'``, ``'SuccessiveHalving'``, ``'Threshold'``.
        after: After how many batches it is asked; several numbers, for several looks.
        options: Its own options.

    Raises:
        InputError: Optuna has no such pruner, it does not take such options, or it is asked after
            less than one batch.
    """

    def __init__(
        self, type: str = 'Median', after: int | Iterable[int] = 4, **options: Any
    ) -> None:
        self._optuna = require('optuna', 'leaving candidates out of a search')
        self.after = [after] if isinstance(after, int) else list(after)
        if not self.after or any(not isinstance(n, int) or n < 1 for n in self.after):
            raise InputError(f'hopeless.after must be 1 batch or more, or several, not {after!r}')
        kind = class_of_optuna(self._optuna.pruners, type, 'Pruner', ('BasePruner',))
        self._pruner = built_by_optuna(kind, options, 'hopeless')

    def is_hopeless(
        self, seen: Mapping[int, float], others: Iterable[tuple[Mapping[int, float], float]]
    ) -> bool:
        """Whether a candidate is not worth more batches.

        Args:
            seen: By how many batches, what they came to so far; smaller is better.
            others: The same of other candidates, and what all batches came to; infinity of those
                that were left.
        """
        optuna, states = self._optuna, self._optuna.trial.TrialState
        with quiet():
            study = optuna.create_study(pruner=self._pruner)
            for values, value in others:
                state = states.COMPLETE if value < float('inf') else states.PRUNED
                study.add_trial(
                    optuna.trial.create_trial(
                        state=state,
                        value=value if state == states.COMPLETE else None,
                        intermediate_values=dict(values),
                    )
                )
            trial = study.ask()
            for batches, value in seen.items():
                trial.report(value, batches)
            return bool(trial.should_prune())
