"""What every search has in common: evaluating candidates, remembering, writing results."""

import math
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from rich.progress import Progress
from torch.utils.data import DataLoader

from mmprune.building import check_options
from mmprune.datafiles import write_data
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.errors import InputError
from mmprune.latency import TableLatency
from mmprune.models import AutoSlim, Recalibration, kept_norm_statistics
from mmprune.models.algorithm import (
    calibration_batches,
    check_is_supernet,
    let_importance_see,
)
from mmprune.models.training_data import TrainingData
from mmprune.search.budget import Budget, Cost
from mmprune.search.candidates import Candidates, Rule
from mmprune.search.history import (
    Evaluation,
    configs_of,
    read_history,
    subnet_key,
    weights_key,
)
from mmprune.search.judging import JudgingLoop, Subnet
from mmprune.search.page import SearchFiles
from mmprune.search.picture import SearchPicture
from mmprune.search.progress import duration, in_words, search_progress
from mmprune.search.storage import JOURNAL, RESULTS, check_own_results, hidden, presence
from mmprune.search.study import Study, on_main
from mmprune.training.compensation import compensation_of
from mmprune.wrappers import without_wrapper

POLL = 0.2
"""Seconds between two looks at what other workers have found."""


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
        again: The same, measured again at the end.
        study: What it was found in.
    """

    budget: str
    channel_cfg: str
    macs: int
    params: int
    metric: float | None
    again: float | None = None
    study: str = ''


class SearchLoop(JudgingLoop):
    """Base of the search loops: a validation loop over subnets instead of over one model.

    A candidate is evaluated as it will be deployed: its channels are set, its
    norm statistics are computed over the same training batches every time
    (the model's ``recalibration``), and it predicts the validation images in
    eval mode. The supernet is as it was when the search ends.

    In the runner's work directory are written: ``study.journal`` before and after every candidate,
    which a search with ``resume`` goes on from, and other processes may work on meanwhile;
    ``subnet_<budget>.yaml``, the channel configs; ``search_results.json``; every minute and at the
    end ``search.html`` and ``search.png``, which show it.

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
        resume: Go on from the study in the work directory, if there is one, and share its work with
            others. Without it, what an earlier search has left there goes to ``earlier_<number>``.
        storage: Where the study is instead: a journal file, or the URL of a database, as Optuna has
            them. All searches that name it work on one study; ``resume`` is implied.
        study: Its name there; that of the config if None.
        imported: A file of evaluations to begin with, as earlier versions wrote it.
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
        storage: str | None = None,
        study: str | None = None,
        imported: str | os.PathLike[str] | None = None,
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
        let_importance_see(self.pruner, runner.cfg)
        if recalibration is not None:
            check_options(Recalibration, recalibration, 'search_cfg.recalibration')
            model.recalibration = Recalibration(**recalibration)
        self.metric = metric
        self.rule: Rule = 'greater' if rule == 'auto' else rule
        self._is_settled = False
        self._as_given = {'metric': metric, 'rule': rule, 'compensation': compensation}
        self._change = (
            None
            if compensation is None
            else compensation_of(model, runner.cfg, method=compensation)
        )
        self.seed = seed
        self.resume, self.storage, self.imported = resume, storage, imported
        self.study_name = study or Path(runner.cfg.filename or 'search').stem
        elsewhere = '' if storage is None else f' in {hidden(storage)}'
        self._named_study = f'{self.study_name}{elsewhere}'
        self.latency = None if latency is None else TableLatency(latency)
        self.results: list[SearchResult] = []
        self.chosen: list[tuple[str, Evaluation]] = []
        (self.full_cost,) = self.costs([self.pruner.full_subnet()])
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
        shown, self.files = is_main_process(), SearchFiles(self.work_dir)
        batches = calibration_batches(self.runner.cfg, self.algorithm.recalibration)
        self.batches = TrainingData(self.algorithm.data_preprocessor, batches)
        if self.latency is not None:
            table = self.latency.estimator(self.pruner.supernet).table
            self.runner.logger.info(f'{self.latency.path}: latency on {table.device}')
        with self._open_study():
            with self._supernet_kept():
                self._announce()
            with self._supernet_kept(), search_progress(self.runner.logger, shown) as bar:
                for budget, subnet, evaluation in self.search(bar):
                    self._finish(budget, subnet, evaluation)
                self._draw(is_last=True)
        return {
            f'{result.budget}/{self.metric}': math.nan if result.metric is None else result.metric
            for result in self.results
        }

    @contextmanager
    def _open_study(self) -> Iterator[None]:
        """Have the study, new or with what is known already."""
        journal = self.work_dir / JOURNAL
        is_here = self.storage is None
        with ExitStack() as stack:
            if is_here and is_main_process():
                stack.enter_context(presence(journal, anew=not self.resume))
            on_main(lambda: check_own_results(self.work_dir, self._named_study))
            self.study = Study(
                self.storage or str(journal),
                self.study_name,
                self._all_settings(),
                [self._direction(name) for name in self.objectives],
                self.work_dir,
                alone=is_here,
            )
            stack.callback(self.study.close)
            if self.imported is not None:
                found = read_history(Path(self.imported), self._all_settings())
                self.study.add((each, self._values(each)) for each in map(_numbered, found))
            if self.study.evaluations:
                known = len(self.study.evaluations)
                self.runner.logger.info(f'{self.study}: {known} candidates are evaluated already')
            yield

    def evaluate(self, subnet: Subnet, origin: str, cost: Cost | None = None) -> Evaluation:
        """Return the evaluation of a candidate, from the study if it is there.

        Args:
            subnet: The candidate.
            origin: Where it came from, in words, for the study and the log.
            cost: Its cost, if that is known already.
        """
        return self.evaluate_all([(subnet, origin, cost)])[0]

    def evaluate_all(
        self, candidates: Sequence[tuple[Subnet, str, Cost | None]]
    ) -> list[Evaluation]:
        """Return the evaluations of candidates, some of which other workers may have taken.

        Args:
            candidates: Subnet, origin and cost of each, as for ``evaluate``.
        """
        keys = [subnet_key(subnet) for subnet, _, _ in candidates]
        left = dict(zip(keys, candidates, strict=True))
        while True:
            self.study.refresh()
            left = {key: each for key, each in left.items() if key not in self.study.evaluations}
            free = [each for key, each in left.items() if key not in self.study.claims]
            if not left:
                break
            if not free:
                time.sleep(POLL)
            for subnet, origin, cost in free:
                if self.take(subnet, origin, cost) is not None:
                    break
        found = [self.study.evaluations[key] for key in keys]
        for evaluation in found:
            self._compared(evaluation.metrics)
        return found

    def take(
        self, subnet: Subnet, origin: str, cost: Cost | None = None, **more: Any
    ) -> Evaluation | None:
        """Evaluate a candidate, unless another worker is at it, or has been.

        Args:
            subnet: The candidate.
            origin: Where it came from, in words, for the study and the log.
            cost: Its cost, if that is known already.
            more: What else is to be remembered: fields of ``Evaluation``.
        """
        cost = cost or self.costs([subnet])[0]
        candidate = Evaluation(
            index=-1,
            origin=origin,
            key=subnet_key(subnet),
            macs=int(cost['macs']),
            params=int(cost['params']),
            metric=None,
            channels={space_id: int(mask.sum()) for space_id, mask in subnet.items()},
            latency=cost.get('latency'),
            **more,
        )
        number = self.study.claim(candidate)
        if number is None:
            return None
        start = time.perf_counter()
        try:
            metrics = self._measure(subnet)
            metric = self._compared(metrics)
        except BaseException:
            self.study.give_back()
            raise
        seconds = time.perf_counter() - start
        evaluation = replace(candidate, index=number, metric=metric, metrics=metrics)
        self.study.finish(evaluation, self._values(evaluation))
        self.runner.logger.info(
            f'candidate {number}: {self.metric} {in_words(metric)}, '
            f'{evaluation.macs:,} MACs ({evaluation.macs / self.full_cost["macs"]:.1%}), '
            f'{evaluation.params:,} parameters, {seconds:.2f} s: {origin}'
        )
        self._draw()
        return evaluation

    def _announce(self) -> None:
        """Say how many candidates are expected, and how long they will take."""
        expected = self.expected()
        seconds = self._seconds_each()
        each = f'one takes about {seconds:.2g} s at full width'
        if expected is None:
            self.runner.logger.info(f'{type(self).__name__}: {each}')
            return
        left = max(expected - len(self.study.evaluations), 0)
        self.runner.logger.info(
            f'{type(self).__name__}: up to about {left:,} candidates to evaluate; {each}, so '
            f'all of them {duration(left * seconds)}'
        )

    @contextmanager
    def _supernet_kept(self) -> Iterator[None]:
        """Put the supernet's statistics, width and modes back at the end."""
        subnet = self.pruner.current_subnet()
        with kept_norm_statistics(self.algorithm.architecture):
            try:
                yield
            finally:
                self.pruner.set_subnet(subnet)

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
        """Measure a result again; write its channel config, and the results so far."""
        path = self.work_dir / f'subnet_{budget.label}.yaml'
        metric = evaluation.metric
        if metric is not None:  # it may be known from an earlier run, and nothing else is
            self._compared(evaluation.metrics)
        again = super()._measure(subnet).get(self.metric)
        cost = evaluation.macs, evaluation.params
        result = SearchResult(budget.label, str(path), *cost, metric, again, self._named_study)
        self.results.append(result)
        self.chosen.append((budget.label, evaluation))
        self.runner.logger.info(
            f'budget {budget.label} ({budget}): {self.metric} {in_words(metric)}, measured again '
            f'{in_words(again)}, {result.macs:,} MACs '
            f'({result.macs / self.full_cost["macs"]:.1%}): {path}'
        )
        if again != metric:
            self.runner.logger.warning(
                f'{path}: {self.metric} is {in_words(again)} now, and was {in_words(metric)} in '
                'the search: the network, its images or their order depend on something else'
            )
        if is_main_process():
            self.pruner.set_subnet(subnet)
            save_channel_cfg(self.pruner.export_subnet(), path)
            # The configs lie beside the list, wherever the folder goes.
            content = [
                {**asdict(result), 'channel_cfg': Path(result.channel_cfg).name}
                for result in self.results
            ]
            write_data(content, self.work_dir / RESULTS)

    def _draw(self, is_last: bool = False) -> None:
        """Draw what is known, now and then and at last."""

        def picture() -> SearchPicture:
            found = sorted(self.study.evaluations.values(), key=lambda each: each.index)
            groups = {s: g.num_channels for s, g in self.pruner.supernet.prunable_groups.items()}
            candidates = Candidates.of(found, self.full_cost, self.metric, self.rule)
            return SearchPicture(self.study_name, candidates, groups, self.chosen)

        if is_main_process():
            self.files.draw(picture, is_last)


def _numbered(evaluation: Evaluation) -> Evaluation:
    """An evaluation of an earlier version, with what its origin says of the sampler's proposal."""
    number = evaluation.origin.rpartition(' ')[2]
    asked = int(number) + 1 if number.isdecimal() else evaluation.index + 1
    return replace(evaluation, asked=asked)
