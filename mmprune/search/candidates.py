"""What a search has evaluated, compared: which is best, which nobody beats, which to take."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmprune.errors import InputError
from mmprune.search.budget import Budget, Cost
from mmprune.search.history import Evaluation

Rule = Literal['greater', 'less']
# What the metrics of OpenMMLab's code bases are mainly known by, in the last part of a name.
_PREFERRED = ('top1', 'bbox_mAP', 'mAP', 'mIoU', 'AP')
_ERRORS = {'loss', 'error', 'err', 'mae', 'mse', 'rmse', 'epe', 'nme'}
_UNDER = 'best-under:'
WAYS = f"'knee', 'best', '{_UNDER}macs=0.5,params=1e6', or the number of a candidate"


@dataclass(frozen=True)
class Candidates:
    """Evaluations in the order in which they were made, and how they compare.

    Attributes:
        evaluations: Those in which something was measured; one at least.
        metric: The name of what was compared.
        rule: Whether 'greater' or 'less' of it is better.
        full: What the full network costs.
    """

    evaluations: Sequence[Evaluation]
    metric: str
    rule: Rule
    full: Cost

    @classmethod
    def of(
        cls, found: Sequence[Evaluation], full: Cost, metric: str = 'auto', rule: str = 'auto'
    ) -> Candidates:
        """Compare what a search has evaluated as it does.

        Args:
            found: Its evaluations.
            full: What the full network costs.
            metric: As in ``search_cfg``.
            rule: The same.

        Raises:
            InputError: Nothing was measured.
        """
        measured = [e for e in found if e.metric is not None and math.isfinite(e.metric)]
        if not measured:
            raise InputError(f'nothing was measured in any of {len(found)} candidates')
        name = main_metric(measured[0].metrics or {'metric': 0.0}) if metric == 'auto' else metric
        known: Rule = 'less' if rule == 'less' else 'greater'
        return cls(measured, name, rule_of(name) if rule == 'auto' else known, full)

    def loss(self, evaluation: Evaluation) -> float:
        """The metric as a number of which less is better."""
        return smaller_is_better(evaluation.metric, self.rule)

    def best(self, among: Sequence[Evaluation] | None = None) -> Evaluation:
        """The best candidate, and of equally good ones the cheapest."""
        found = self.evaluations if among is None else among
        return min(found, key=lambda each: (self.loss(each), each.macs, each.index))

    def front(self) -> list[Evaluation]:
        """The candidates that no cheaper one is as good as, by MACs, the cheapest first."""
        front: list[Evaluation] = []
        ordered = sorted(
            self.evaluations, key=lambda each: (each.macs, self.loss(each), each.index)
        )
        for each in ordered:
            if not front or self.loss(each) < self.loss(front[-1]):
                front.append(each)
        return front

    def knee(self) -> Evaluation:
        """Where the front bends: farthest from the line between its ends; the best if it is short.

        Both ways are scaled to the length of the front, so that units do not matter.
        """
        front = self.front()
        if len(front) < 3:
            return self.best()
        points = np.array([[each.macs, self.loss(each)] for each in front], float)
        scaled = (points - points[0]) / (points[-1] - points[0])
        return front[int(np.argmax(scaled[:, 1] - scaled[:, 0]))]

    def pick(self, how: str) -> Evaluation:
        """The candidate that a person asks for.

        Args:
            how: ``'knee'``, ``'best'``, ``'best-under:macs=0.5'``, where limits are given as in
                a budget and those of ``latency`` in milliseconds, or the number of a candidate.

        Raises:
            InputError: It is none of these, or there is no such candidate.
        """
        if how == 'knee':
            return self.knee()
        if how == 'best':
            return self.best()
        if how.isdecimal():
            found = [each for each in self.evaluations if each.index == int(how)]
            if not found:
                last = max(each.index for each in self.evaluations)
                raise InputError(f'no candidate {how} was measured; the last one is {last}')
            return found[0]
        if not how.startswith(_UNDER):
            raise InputError(f'{how!r} is no way to pick a candidate: give {WAYS}')
        budget = self._budget(how.removeprefix(_UNDER))
        within = [each for each in self.evaluations if budget.fits(each.cost)]
        if not within:
            cheapest = min(self.evaluations, key=lambda each: each.macs)
            raise InputError(
                f'none of {len(self.evaluations)} candidates is within {budget}; the cheapest has '
                f'{cheapest.macs:,} MACs and {cheapest.params:,} parameters'
            )
        return self.best(within)

    def _budget(self, text: str) -> Budget:
        limits = {}
        try:
            for part in text.split(','):
                name, _, value = part.partition('=')
                limits[name] = float(value)
        except ValueError:
            raise InputError(f'{text!r} is no budget: give {_UNDER}macs=0.5,params=1e6') from None
        return Budget.of(limits, {**self.full, 'latency': 1.0})  # of which no share is meant


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric to compare where nobody has said one: the best known, else the first.

    Args:
        metrics: What the evaluator gives, not empty: ``{'coco/bbox_mAP': 0.3, ...}``.
    """
    last = {name.rpartition('/')[2]: name for name in reversed(list(metrics))}
    return next((last[each] for each in _PREFERRED if each in last), next(iter(metrics)))


def rule_of(name: str) -> Rule:
    """Whether more of a metric is better: not of losses and errors."""
    return 'less' if set(re.split(r'[^a-z]+', name.lower())) & _ERRORS else 'greater'


def smaller_is_better(value: float | None, rule: Rule) -> float:
    """A value to minimise; infinity where nothing was measured."""
    if value is None or math.isnan(value):
        return math.inf
    return value if rule == 'less' else -value
