"""What every search has in common: evaluating candidates, remembering, writing results."""

import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, ValLoop
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from mmprune.cost import CostError
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.latency import TableLatency
from mmprune.models import AutoSlim, kept_norm_statistics
from mmprune.models.algorithm import calibration_batches, check_is_supernet
from mmprune.randomness import seeded
from mmprune.search.budget import Budget, Cost
from mmprune.search.history import Evaluation, SearchHistory, subnet_key, weights_key
from mmprune.search.progress import search_progress

Subnet = dict[str, Tensor]


@dataclass(frozen=True)
class SearchResult:
    """The subnet that a search has found for one budget.

    Attributes:
        budget: The budget as the config gives it, such as '0.5' or '300M'.
        channel_cfg: The file with its channel config.
        macs: Multiply-adds on the demo input.
        params: Number of parameters.
        metric: Its value of the metric that the search compares.
    """

    budget: str
    channel_cfg: str
    macs: int
    params: int
    metric: float


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
        metric: Which of the evaluator's values is compared.
        rule: Whether 'greater' or 'less' is better.
        seed: Of what the search draws.
        resume: Go on from the history in the work directory.
        fp16: Evaluate in mixed precision.
        latency: A table that ``tools/latency.py`` has written for this network on the device
            that is to run the subnets. With it, costs have a predicted ``latency``, in ms.

    Raises:
        InputError: If the model has no subnets, or the table is of another network.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        evaluator: Evaluator | dict[str, Any] | list[Any],
        metric: str = 'accuracy/top1',
        rule: Literal['greater', 'less'] = 'greater',
        seed: int = 0,
        resume: bool = False,
        fp16: bool = False,
        latency: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_is_supernet(model, str(runner.cfg.filename))
        if rule not in ('greater', 'less'):
            raise InputError(f"The rule of a search is 'greater' or 'less', got {rule!r}.")
        self.algorithm: AutoSlim = model
        self.pruner = model.pruner
        self.metric = metric
        self.rule = rule
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
        if self.resume:
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
        return {f'{result.budget}/{self.metric}': result.metric for result in self.results}

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
            return found
        start = time.perf_counter()
        metric = self._measure(subnet)
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
        )
        self.history.add(evaluation)
        self.runner.logger.info(
            f'candidate {evaluation.index}: {self.metric} {metric:.4f}, {evaluation.macs:,} MACs '
            f'({evaluation.macs / self.full_cost["macs"]:.1%}), {evaluation.params:,} parameters, '
            f'{seconds:.2f} s: {origin}'
        )
        return evaluation

    def costs(self, subnets: Sequence[Subnet]) -> list[Cost]:
        """Return the costs of subnets, in closed form and all at once where widths tell them."""
        table = self.pruner.cost_table()
        if not subnets:
            return []
        widths = np.stack([table.widths_of(subnet) for subnet in subnets])
        costs: list[dict[str, float]]
        try:
            found = table.batch(widths)
            costs = [
                {n: int(column[row]) for n, column in found.items()} for row in range(len(subnets))
            ]
        except CostError:
            costs = [dict(self.pruner.cost(subnet)) for subnet in subnets]
        if self.latency is not None:
            predicted = self.latency.estimator(self.pruner.supernet).batch(widths)
            for cost, seconds in zip(costs, predicted.tolist(), strict=True):
                cost['latency'] = 1e3 * seconds
        return list(costs)

    def is_better(self, first: Evaluation, second: Evaluation) -> bool:
        """Tell whether the first is better; of two equal ones, the cheaper, then the earlier."""
        return self.rank(first) < self.rank(second)

    def rank(self, evaluation: Evaluation) -> tuple[float, int, int]:
        """Return a sort key: the best candidate has the smallest."""
        sign = -1 if self.rule == 'greater' else 1
        return sign * evaluation.metric, evaluation.macs, evaluation.index

    @torch.no_grad()
    def _measure(self, subnet: Subnet) -> float:
        """Return the metric of a subnet with norm statistics of its own."""
        self.pruner.set_subnet(subnet)
        if self.batches:
            self.algorithm.recalibrate(self.batches)
        self.algorithm.architecture.eval()
        for batch in self.dataloader:
            with torch.autocast(self._device_type, enabled=self.fp16):
                samples = self.algorithm.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.metric not in metrics:
            raise InputError(
                f'{self.runner.cfg.filename}: the search compares {self.metric!r}, but the '
                f'evaluator gives {sorted(metrics)}; set `metric` in search_cfg.'
            )
        return float(metrics[self.metric])

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
            one_batch = _timed(lambda: self.algorithm.recalibrate(self.batches[:1]))
            seconds += len(self.batches) * one_batch
        self.algorithm.architecture.eval()
        with torch.autocast(self._device_type, enabled=self.fp16):
            one_batch = _timed(lambda: self.algorithm.val_step(batch))
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
            'metric': self.metric,
            'rule': self.rule,
            'seed': self.seed,
            'fp16': self.fp16,
            'recalibration': asdict(self.algorithm.recalibration),
            'num_images': len(self.dataloader.dataset),
            'weights': weights_key(self.algorithm.architecture.state_dict()),
        }

    def _finish(self, budget: Budget, subnet: Subnet, evaluation: Evaluation) -> None:
        """Write the channel config of a result, and the list of results so far."""
        path = self.work_dir / f'subnet_{budget.label}.yaml'
        result = SearchResult(
            budget.label, str(path), evaluation.macs, evaluation.params, evaluation.metric
        )
        self.results.append(result)
        self.runner.logger.info(
            f'budget {budget.label} ({budget}): {self.metric} {result.metric:.4f}, '
            f'{result.macs:,} MACs ({result.macs / self.full_cost["macs"]:.1%}): {path}'
        )
        if is_main_process():
            self.pruner.set_subnet(subnet)
            save_channel_cfg(self.pruner.export_subnet(), path)
            with atomic_path(self.work_dir / 'search_results.json') as unfinished:
                content = [asdict(result) for result in self.results]
                unfinished.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def duration(seconds: float) -> str:
    """A time for a person: seconds, minutes or hours."""
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} s'


def _timed(run: Callable[[], Any]) -> float:
    """Seconds of the second run; the first one warms up."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
