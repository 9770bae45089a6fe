"""How a search judges candidates: their metrics, their costs, and which of two is better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.runner import ValLoop
from torch import Tensor

from mmprune.channels.labels import IntArray
from mmprune.errors import InputError
from mmprune.latency import TableLatency
from mmprune.models import AutoSlim
from mmprune.models.norm_statistics import recalibrate_norm_statistics
from mmprune.models.training_data import TrainingData
from mmprune.pruners import StructurePruner
from mmprune.randomness import seeded
from mmprune.search.budget import COSTS, Cost
from mmprune.search.candidates import Rule, main_metric, rule_of, smaller_is_better
from mmprune.search.evaluate import judged, recalibrate
from mmprune.search.history import Evaluation
from mmprune.training.compensation import Change

Subnet = dict[str, Tensor]


class JudgingLoop(ValLoop):
    """A validation loop that measures subnets; ``SearchLoop`` sets what it needs.

    Attributes:
        algorithm: The supernet.
        pruner: Its pruner.
        latency: Predicts milliseconds, if there is a table.
        batches: What norm statistics are computed over.
        metric: Which of the evaluator's values is compared; ``'auto'`` until there are some.
        rule: Whether more or less of it is better.
        seed: Of what the search draws.
    """

    algorithm: AutoSlim
    pruner: StructurePruner
    latency: TableLatency | None
    batches: TrainingData
    metric: str
    rule: Rule
    seed: int
    _change: Change | None
    _as_given: dict[str, Any]
    _is_settled: bool

    objectives: Sequence[str] = ('metric',)
    """What is told to the study, for other tools."""

    def costs(self, subnets: Sequence[Subnet], widths: IntArray | None = None) -> list[Cost]:
        """Return the costs of subnets, in closed form and all at once where widths tell them.

        Args:
            subnets: The subnets.
            widths: Their kept channels, (subnets, groups), if they are known already.
        """
        if widths is None and subnets:
            widths = np.stack([self.pruner.cost_table().widths_of(subnet) for subnet in subnets])
        costs = self.pruner.costs(subnets, widths)
        if self.latency is not None and widths is not None:
            predicted = self.latency.estimator(self.pruner.supernet).batch(widths)
            for cost, seconds in zip(costs, predicted.tolist(), strict=True):
                cost['latency'] = 1e3 * seconds
        return list(costs)

    def rank(self, evaluation: Evaluation) -> tuple[float, int, int]:
        """Return a sort key: the best candidate by the first objective has the smallest.

        Of two equal ones the cheaper is better, then the earlier.
        """
        value = self._value(evaluation, self.objectives[0])
        return value, evaluation.macs, evaluation.index

    def _measure(self, subnet: Subnet) -> dict[str, float]:
        """Return what the evaluator says of a subnet, deployed."""
        return self._judged(subnet, self._metrics)

    def _judged(
        self, subnet: Subnet, measure: Callable[[Any], dict[str, float]]
    ) -> dict[str, float]:
        """Return what is measured of a subnet, deployed and changed as the search says."""
        change = self._change or partial(recalibrate, batches=self.batches)
        return judged(self.pruner, subnet, measure, change)

    def _metrics(self, network: Any) -> dict[str, float]:
        """Return what the evaluator says of a network."""
        for _ in self._shown(network):
            pass
        return self._evaluated(len(self.dataloader.dataset))

    @torch.no_grad()
    def _shown(self, network: Any) -> Iterator[int]:
        """Have the evaluator see batch after batch; yield how many images it has seen."""
        images = 0
        for batch in self.dataloader:
            with torch.autocast(self._device_type, enabled=self.fp16):
                samples = network.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
            images += len(samples) * get_world_size()
            yield images

    def _evaluated(self, images: int) -> dict[str, float]:
        """Return what the evaluator says of so many images, which it forgets."""
        metrics = self.evaluator.evaluate(images)
        return {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, Real | Tensor) and not math.isnan(value)
        }

    def _value(self, evaluation: Evaluation, objective: str) -> float:
        """Return an objective of a candidate, to be minimised."""
        if objective in COSTS:
            return float(getattr(evaluation, objective))
        if objective == 'metric':
            return smaller_is_better(evaluation.metric, self.rule)
        return smaller_is_better(evaluation.metrics.get(objective), rule_of(objective))

    def _values(self, evaluation: Evaluation) -> list[float]:
        """Return the objectives of a candidate, the right way round for the study."""
        return [
            self._value(evaluation, name) * (1 if self._direction(name) == 'minimize' else -1)
            for name in self.objectives
        ]

    def _direction(self, objective: str) -> str:
        """Which way round the study has an objective, which is said before any is known."""
        metric, rule = self._as_given['metric'], self._as_given['rule']
        if objective == 'metric':
            is_less = rule == 'less' or (rule == 'auto' and rule_of(str(metric)) == 'less')
        else:
            is_less = objective in COSTS or rule_of(objective) == 'less'
        return 'minimize' if is_less else 'maximize'

    def _compared(self, metrics: Mapping[str, float]) -> float | None:
        """Return the value that counts, and settle which one that is when there are values.

        Raises:
            InputError: The evaluator gives others, and has never given this one.
        """
        if metrics and not self._is_settled:
            if self.metric == 'auto':
                self.metric = main_metric(metrics)
                self.runner.logger.info(f'the search compares {self.metric}')
            if self.metric not in metrics:
                raise InputError(
                    f'{self.runner.cfg.filename}: the search compares {self.metric!r}, but the '
                    f'evaluator gives {sorted(metrics)}; set `metric` in search_cfg.'
                )
            self._is_settled = True
            if self._as_given['rule'] == 'auto':
                self.rule = rule_of(self.metric)
        return metrics.get(self.metric)

    @torch.no_grad()
    def _seconds_each(self) -> float:
        """How long a candidate takes, from one batch of each kind at full width."""
        self.pruner.set_max_channel()
        with seeded(self.seed):  # a data loader draws a random number
            batch = next(iter(self.dataloader))
        seconds = 0.0
        if len(self.batches):
            first = [next(iter(self.batches))]
            network = self.algorithm.architecture
            one_batch = _timed(lambda: recalibrate_norm_statistics(network, first))
            seconds += len(self.batches) * one_batch
        self.algorithm.architecture.eval()
        with torch.autocast(self._device_type, enabled=self.fp16):
            one_batch = _timed(lambda: self.algorithm.val_step(batch))
        return seconds + len(self.dataloader) * one_batch

    @property
    def _device_type(self) -> str:
        return next(self.algorithm.parameters()).device.type


def _timed(run: Callable[[], Any]) -> float:
    """Seconds of the second run; the first one warms up."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
