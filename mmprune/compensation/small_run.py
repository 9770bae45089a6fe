"""Runs of the pruned network in which its weights are solved, in order of execution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from mmprune.compensation.calls import LayerCall
from mmprune.compensation.lockstep import LockStep
from mmprune.compensation.methods import Compensation
from mmprune.compensation.problem import Problem, Solution
from mmprune.compensation.report import Fit
from mmprune.compensation.units import Unit, Use, by_tensor
from mmprune.compensation.watch import Observer, Watch
from mmprune.execution.fast_paths import plain_paths
from mmprune.trace.eager import eagerly

ROUNDING = 4
"""A layer that is missing less than this many times the type's precision is missing nothing."""


class SmallRun:
    """Solves units while all batches go through the small network in lock step.

    A weight that is called once in a pass is solved when every batch has reached it, and all of
    them go on with its new outputs. One that is called several times is solved at the end of a
    pass, from all of its calls; those after it wait for the next pass.

    Args:
        small: The network.
        order: The units, in order of execution, with their targets.
        method: How they are solved.
        tick: Called when a unit is settled.
    """

    def __init__(
        self, small: nn.Module, order: Sequence[Unit], method: Compensation, tick: Callable[[], Any]
    ) -> None:
        self.small, self.method, self.tick = small, method, tick
        self.by_weight = by_tensor(list(order), 'small')
        self.pending = dict(enumerate(order))
        self.points = {unit: point for point, unit in self.pending.items()}
        self.problems: dict[Unit, tuple[Problem, LayerCall]] = {}
        self.collecting: Unit | None = None
        self.fits: dict[str, Fit] = {}

    @torch.no_grad()
    def run(self, jobs: Sequence[Callable[[nn.Module], Any]]) -> None:
        """Run passes until every unit is settled.

        Args:
            jobs: Each runs a model on one batch.
        """
        self.small.eval()
        while self.pending:
            self.collecting = None
            lock = LockStep(self._settle)
            with plain_paths(), eagerly():
                lock.run([partial(self._watched, lock, n, job) for n, job in enumerate(jobs)])
            if self.collecting is None:
                for unit in self.pending.values():
                    unit.left = unit.left or 'is not called in the small network'
                break
            self._settle(self.points[self.collecting])

    def _watched(self, lock: LockStep, batch: int, job: Callable[[nn.Module], Any]) -> None:
        with Watch(_BatchObserver(self, batch, lock)):
            job(self.small)

    def visit(self, unit: Unit, use: Use, call: LayerCall) -> bool:
        """Note what a call reads; whether the pass has to wait until the unit is solved."""
        if self.points[unit] not in self.pending or self.collecting not in (None, unit):
            return False
        target = unit.targets.get(use)
        shape = call.output_shape()
        count = call.positions(shape)
        if target is None or count != target.count:
            places = (
                'more often than'
                if target is None
                else f'at {count} positions, not {target.count} as'
            )
            unit.left = f'is called {places} in the full network'
            return False
        if unit not in self.problems:
            problem = Problem(call.matrix().double())
            self.problems[unit] = problem, replace(call, input=call.weight)
        features = call.features_at(shape, target.positions)
        self.problems[unit][0].add(features, target.values, call.bias, unit.places.get(use))
        if unit.is_used_once:
            return True
        self.collecting = unit
        return False

    def _settle(self, point: int) -> None:
        """Solve a unit with what was noted of it."""
        unit = self.pending.pop(point)
        self.tick()
        problem, call = self.problems.pop(unit)
        if unit.left or not problem.count:
            unit.left = unit.left or 'gives nothing'
            return
        if not self.method.changes_weights and not any(unit.places.values()):
            unit.left = 'has no bias of its own, and no batch norm right behind it'
            return
        before = problem.error()
        if not math.isfinite(before):
            unit.left = 'reads or gives numbers that are not finite'
            return
        if before <= (ROUNDING * torch.finfo(unit.small.dtype).eps) ** 2 * problem.scale:
            return  # it reads what it reads in the full network
        solution = self.method.solve(problem)
        scale = problem.scale or 1.0  # where the full network gives constants
        self.fits[unit.name] = Fit(before / scale, problem.error(solution) / scale)
        self._apply(unit, call, problem, solution)

    def _apply(self, unit: Unit, call: LayerCall, problem: Problem, solution: Solution) -> None:
        if solution.matrix is not None:
            unit.small.copy_(call.weight_of(problem.matrix + solution.matrix))
        for place, shift in solution.shifts.items():
            owner, _, local = place.name.rpartition('.')
            getattr(self.small.get_submodule(owner), local).add_(place.sign * shift)


class _BatchObserver(Observer):
    """Tells a run of the calls of one batch, and waits where it has to."""

    def __init__(self, run: SmallRun, batch: int, lock: LockStep) -> None:
        self.run, self.batch, self.lock = run, batch, lock
        self.uses: Counter[Unit] = Counter()

    def before(self, call: LayerCall) -> None:
        """See ``Observer``."""
        unit = self.run.by_weight.get(id(call.weight))
        if unit is None:
            return
        use = self.batch, self.uses[unit]
        self.uses[unit] += 1
        if self.run.visit(unit, use, call):
            self.lock.wait(self.run.points[unit])
