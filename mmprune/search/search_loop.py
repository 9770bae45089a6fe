"""What every search has in common: evaluating candidates, remembering, writing results."""

import json
import math
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, ValLoop
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from mmprune.building import check_options
from mmprune.channels.labels import IntArray
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.latency import TableLatency
from mmprune.models import AutoSlim, Recalibration, kept_norm_statistics
from mmprune.models.algorithm import calibration_batches, check_is_supernet
from mmprune.randomness import seeded
from mmprune.search.budget import Budget, Cost
from mmprune.search.compared import Rule, main_metric, rule_of, smaller_is_better
from mmprune.search.history import (
    RESULTS,
    Evaluation,
    SearchHistory,
    configs_of,
    subnet_key,
    weights_key,
)
from mmprune.search.progress import duration, search_progress, timed
from mmprune.training.compensation import Change, compensation_of
from mmprune.wrappers import without_wrapper

Subnet = dict[str, Tensor]


@dataclass(frozen=True)
class SearchResult:
    """The subnet that a search has found for one budget.

    Attributes:
        budget: The budget as the config gives it, such as '0.5' or '300M'.
        channel_cfg: The file with its channel config.
        macs: Multiply-adds on the demo input.
        params: Number of parameters.
        metric: Its value of the metric that the search compares; None where the evaluator found
            nothing to measure, in no candidate.
    """

    budget: str
    channel_cfg: str
    macs: int
    params: int
    metric: float | None


class SearchLoop(ValLoop):
    """Base of the search loops: a validation loop over subnets instead of over one model.

    A candidate is evaluated as it will be deployed: its channels are set, its
    norm statistics are computed over the same training batches every time
    (the model's ``recalibration``), and it predicts the validation images in
    eval mode. The supernet is as it was when the search ends.

    In the runner's work directory are written: ``search_history.jsonl`` after
    every candidate, which a search with ``resume`` goes on from;
    ``subnet_<budget>.yaml``, the channel configs; ``search_results.json``.

    Args:
        runner: The runner; its model is an AutoSlim.
        dataloader: The images to evaluate on. The runner's ``val_dataloader``
            if the config of the loop has none. Better a held-out part of the
            training data than what the result will be reported on.
        evaluator: The metrics, as in mmengine's ``ValLoop``.
        metric: Which of the evaluator's values is compared; ``'auto'`` takes the best known of
            those that it gives (``top1``, ``bbox_mAP``, ``mIoU``, ``AP``), else the first. A
            candidate without this value, such as a detector that detects nothing, is the worst.
        rule: Whether 'greater' or 'less' is better; ``'auto'``: less of losses and errors.
        seed: Of what the search draws.
        resume: Go on from the history in the work directory, if there is one. Without it, what an
            earlier search has left there is moved into ``earlier_<number>``.
        fp16: Evaluate in mixed precision.
        latency: A table that ``tools/latency.py`` has written for this network on the device
            that is to run the subnets. With it, costs have a predicted ``latency``, in ms.
        compensation: Judge each candidate as a small network of its own, whose weights were fitted
            to training images by this method: its name, or config, as in
            ``prune_cfg=dict(compensation=...)``. Its norms keep the full network's statistics.

        recalibration: How norm statistics are computed, instead of as the model says: the fields
            of ``Recalibration``.

    Raises:
        InputError: If the model has no subnets, the table is of another network, or there is no
            such compensation.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        evaluator: Evaluator | dict[str, Any] | list[Any],
        metric: str = 'auto',
        rule: Literal['auto', 'greater', 'less'] = 'auto',
        seed: int = 0,
        resume: bool = False,
        fp16: bool = False,
        latency: str | os.PathLike[str] | None = None,
        compensation: str | dict[str, Any] | None = None,
        recalibration: dict[str, Any] | None = None,
    ) -> None:
        self._configs = configs_of(runner.cfg, dataloader, evaluator)
        super().__init__(runner, dataloader, evaluator, fp16)
        model = without_wrapper(runner.model)
        check_is_supernet(model, str(runner.cfg.filename))
        if rule not in ('auto', 'greater', 'less'):
            raise InputError(f"The rule of a search is 'greater', 'less' or 'auto', got {rule!r}.")
        self.algorithm: AutoSlim = model
        self.pruner = model.pruner
        if recalibration is not None:
            check_options(Recalibration, recalibration, 'search_cfg.recalibration')
            model.recalibration = Recalibration(**recalibration)
        self.metric = metric
        self.rule: Rule = 'greater' if rule == 'auto' else rule
        self._is_settled = False
        self._as_given = {'metric': metric, 'rule': rule, 'compensation': compensation}
        self._change = self._compensation(compensation)
        self.seed = seed
        self.resume = resume
        self.latency = None if latency is None else TableLatency(latency)
        self.results: list[SearchResult] = []
        self.full_cost, self.smallest_cost = self._extreme_costs()
        self.work_dir = Path(runner.work_dir)

    @abstractmethod
    def search(self, progress: Progress) -> Iterator[tuple[Budget, Subnet, Evaluation]]:
        """Yield the best subnet for each budget, one after the other."""

    def expected(self) -> int | None:
        """How many candidates will be evaluated, about or at most; None if nobody can know."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on, as plain data."""

    def run(self) -> dict[str, float]:
        """Search, and write the results.

        Returns:
            The metric of the subnet found for each budget, by ``<budget>/<metric>``.
        """
        self.batches = calibration_batches(self.runner.cfg, self.algorithm.recalibration)
        self.history = SearchHistory(
            self.work_dir / 'search_history.jsonl',
            self._all_settings(),
            resume=self.resume,
            is_writer=is_main_process(),
        )
        self.runner.logger.info(
            f'{self.history.path}: {self.history.num_resumed} candidates are evaluated already'
        )
        if self.latency is not None:
            table = self.latency.estimator(self.pruner.supernet).table
            self.runner.logger.info(f'{self.latency.path}: latency on {table.device}')
        with self._supernet_kept():
            self._announce()
        with self._supernet_kept(), search_progress(self.runner.logger, is_main_process()) as bar:
            for budget, subnet, evaluation in self.search(bar):
                self._finish(budget, subnet, evaluation)
        return {
            f'{result.budget}/{self.metric}': math.nan if result.metric is None else result.metric
            for result in self.results
        }

    def evaluate(self, subnet: Subnet, origin: str, cost: Cost | None = None) -> Evaluation:
        """Return the evaluation of a candidate, from the history if it is there.

        Args:
            subnet: The candidate.
            origin: Where it came from, in words, for the history and the log.
            cost: Its cost, if that is known already.
        """
        key = subnet_key(subnet)
        found = self.history.find(key)
        if found is not None:
            self._compared(found.metrics)
            return found
        start = time.perf_counter()
        metrics = self._measure(subnet)
        metric = self._compared(metrics)
        seconds = time.perf_counter() - start
        cost = cost or self.costs([subnet])[0]
        evaluation = Evaluation(
            index=len(self.history),
            origin=origin,
            key=key,
            macs=int(cost['macs']),
            params=int(cost['params']),
            metric=metric,
            channels={space_id: int(mask.sum()) for space_id, mask in subnet.items()},
            latency=cost.get('latency'),
            metrics=metrics,
        )
        self.history.add(evaluation)
        self.runner.logger.info(
            f'candidate {evaluation.index}: {self.metric} {in_words(metric)}, '
            f'{evaluation.macs:,} MACs ({evaluation.macs / self.full_cost["macs"]:.1%}), '
            f'{evaluation.params:,} parameters, {seconds:.2f} s: {origin}'
        )
        return evaluation

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

    def is_better(self, first: Evaluation, second: Evaluation) -> bool:
        """Tell whether the first is better; of two equal ones, the cheaper, then the earlier."""
        return self.rank(first) < self.rank(second)

    def rank(self, evaluation: Evaluation) -> tuple[float, int, int]:
        """Return a sort key: the best candidate has the smallest."""
        value = smaller_is_better(evaluation.metric, self.rule)
        return value, evaluation.macs, evaluation.index

    @torch.no_grad()
    def _measure(self, subnet: Subnet) -> dict[str, float]:
        """Return what the evaluator says of a subnet, as it would be deployed."""
        self.pruner.set_subnet(subnet)
        network: Any = self.algorithm
        if self._change is not None:
            network = self.pruner.deploy_subnet(self.algorithm.architecture)
            self._change(network)
            network.eval()
        elif self.batches:
            self.algorithm.recalibrate(self.batches)
        self.algorithm.architecture.eval()
        for batch in self.dataloader:
            with torch.autocast(self._device_type, enabled=self.fp16):
                samples = network.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        return {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, Real | Tensor) and not math.isnan(value)
        }

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

    def _compensation(self, method: str | dict[str, Any] | None) -> Change | None:
        """Return what is done to the small network of each candidate."""
        if method is None:
            return None
        cfg = copy(self.runner.cfg)
        cfg.prune_cfg = {**cfg.get('prune_cfg', {}), 'compensation': method}
        return compensation_of(self.algorithm, cfg)

    def _announce(self) -> None:
        """Say how many candidates are expected, and how long they will take."""
        expected = self.expected()
        seconds = self._seconds_each()
        each = f'one takes about {seconds:.2g} s at full width'
        if expected is None:
            self.runner.logger.info(f'{type(self).__name__}: {each}')
            return
        left = max(expected - self.history.num_resumed, 0)
        self.runner.logger.info(
            f'{type(self).__name__}: up to about {left:,} candidates to evaluate; {each}, so '
            f'all of them {duration(left * seconds)}'
        )

    @torch.no_grad()
    def _seconds_each(self) -> float:
        """How long a candidate takes, from one batch of each kind at full width."""
        self.pruner.set_max_channel()
        with seeded(self.seed):  # a data loader draws a random number
            batch = next(iter(self.dataloader))
        seconds = 0.0
        if self.batches:
            one_batch = timed(lambda: self.algorithm.recalibrate(self.batches[:1]))
            seconds += len(self.batches) * one_batch
        self.algorithm.architecture.eval()
        with torch.autocast(self._device_type, enabled=self.fp16):
            one_batch = timed(lambda: self.algorithm.val_step(batch))
        return seconds + len(self.dataloader) * one_batch

    @property
    def _device_type(self) -> str:
        return next(self.algorithm.parameters()).device.type

    @contextmanager
    def _supernet_kept(self) -> Iterator[None]:
        """Put the supernet's statistics, width and modes back at the end."""
        subnet = self.pruner.current_subnet()
        with kept_norm_statistics(self.algorithm.architecture):
            try:
                yield
            finally:
                self.pruner.set_subnet(subnet)

    def _extreme_costs(self) -> tuple[Cost, Cost]:
        """Return the costs of the widest and of the narrowest subnet."""
        before = self.pruner.current_subnet()
        subnets = []
        for set_width in (self.pruner.set_max_channel, self.pruner.set_min_channel):
            set_width()
            subnets.append(self.pruner.current_subnet())
        self.pruner.set_subnet(before)
        full, smallest = self.costs(subnets)
        return full, smallest

    def _all_settings(self) -> dict[str, Any]:
        return {
            'loop': type(self).__name__,
            **self.settings(),
            **self._as_given,
            'seed': self.seed,
            'fp16': self.fp16,
            'recalibration': asdict(self.algorithm.recalibration),
            'num_images': len(self.dataloader.dataset),
            'weights': weights_key(self.algorithm.architecture.state_dict()),
            **self._configs,
        }

    def _finish(self, budget: Budget, subnet: Subnet, evaluation: Evaluation) -> None:
        """Write the channel config of a result, and the list of results so far."""
        path = self.work_dir / f'subnet_{budget.label}.yaml'
        result = SearchResult(
            budget.label, str(path), evaluation.macs, evaluation.params, evaluation.metric
        )
        self.results.append(result)
        self.runner.logger.info(
            f'budget {budget.label} ({budget}): {self.metric} {in_words(result.metric)}, '
            f'{result.macs:,} MACs ({result.macs / self.full_cost["macs"]:.1%}): {path}'
        )
        if is_main_process():
            self.pruner.set_subnet(subnet)
            save_channel_cfg(self.pruner.export_subnet(), path)
            with atomic_path(self.work_dir / RESULTS) as unfinished:
                # The configs lie beside the list, wherever the folder goes.
                content = [
                    {**asdict(result), 'channel_cfg': Path(result.channel_cfg).name}
                    for result in self.results
                ]
                unfinished.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def in_words(metric: float | None) -> str:
    """A metric for a person."""
    return 'not measured' if metric is None else f'{metric:.4f}'
