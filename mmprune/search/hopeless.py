"""Candidates of which a few batches tell that they are not worth the others."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmprune.dependencies import require
from mmprune.errors import InputError
from mmprune.search.sampling import built_by_optuna, class_of_optuna, quiet


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
