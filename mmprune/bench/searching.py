"""What a search costs beside the evaluations of its candidates, and what several workers bring."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.commands.run import build_runner
from mmprune.config import load_config
from mmprune.models.norm_statistics import recalibrate_norm_statistics
from mmprune.search import Evaluation, OptunaSearchLoop
from mmprune.search.history import subnet_key
from mmprune.search.sampling import Sampling
from mmprune.search.storage import JOURNAL, open_storage
from mmprune.search.study import Study

SECTION = 'search'
CONFIG = 'autoslim_resnet-small_1xb64_digits.py'
LIMITS = {60: 20.0, 500: 100.0}
"""Milliseconds that sampler and storage may take for a candidate, by the number of groups."""


class _Watched(OptunaSearchLoop):
    """Does with every candidate, deployed, what cannot be spared, and adds up how long it takes."""

    least = beside = begin = 0.0

    def search(self, progress: Any) -> Iterator[Any]:
        self.begin = time.perf_counter()
        yield from super().search(progress)

    def take(self, subnet: dict[str, Tensor], *args: Any, **kwargs: Any) -> Evaluation | None:
        # What comes first finds no kernels ready for the layers' sizes: they take turns.
        is_first = len(self.study.evaluations) % 2
        if is_first:
            self._measure_alone(subnet)
        found = super().take(subnet, *args, **kwargs)
        if not is_first:
            self._measure_alone(subnet)
        return found

    def _finish(self, *args: Any) -> None:
        begin = time.perf_counter()
        super()._finish(*args)
        self.beside += time.perf_counter() - begin

    def _measure_alone(self, subnet: dict[str, Tensor]) -> None:
        begin = time.perf_counter()
        self.pruner.set_subnet(subnet)
        network = self.pruner.deploy_subnet(self.algorithm.architecture).eval()
        start = time.perf_counter()
        recalibrate_norm_statistics(network, self.batches)
        self._metrics(network)
        self.least += time.perf_counter() - start
        self.beside += time.perf_counter() - begin


class _Together(OptunaSearchLoop):
    """Begins when all workers are ready."""

    barrier: Any

    def _announce(self) -> None:
        self.barrier.wait()


def search_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    candidates = 4 if options.quick else 24
    for groups in LIMITS:
        yield f'sampler and storage, {groups} groups', partial(storage_row, groups, 50)
    yield 'a search on the digits', partial(search_row, candidates)
    cores = 2 if options.quick else min(len(os.sched_getaffinity(0)), 8)
    yield f'{cores} workers of a search', partial(workers_row, cores, candidates)


def storage_row(groups: int, candidates: int) -> Iterator[Row]:
    """What NSGA-II and a journal take for a candidate, from the proposal to what it learns."""
    names = [f'backbone.layer{number // 9}.{number % 9}.conv1' for number in range(groups)]
    sampling = Sampling('NSGAII', {}, 0, dict.fromkeys(names, 8))
    times: list[float] = []
    with TemporaryDirectory() as folder:
        study = Study(str(Path(folder) / JOURNAL), 'one', {}, ['maximize'], Path(folder))
        for _ in range(candidates):
            start = time.perf_counter()
            study.refresh()
            levels, noted = sampling.ask()
            widths = dict(zip(names, levels, strict=True))
            key = subnet_key({name: torch.tensor(width) for name, width in widths.items()})
            key = f'{key} {len(times)}'
            candidate = Evaluation(-1, 'NSGAII', key, 1, 1, 0.5, widths, noted=dict(noted))
            study.claim(candidate)
            study.finish(candidate, [0.5])
            sampling.tell(levels, [-sum(levels)], noted)
            times.append(1e3 * (time.perf_counter() - start))
    yield Row(
        SECTION,
        f'{groups} groups, NSGA-II, a journal file',
        'sampler and storage, for a candidate',
        float(np.median(times)),
        against='what they may take',
        reference=LIMITS[groups],
        most=1.0,
        rounds=candidates,
        spread=float(np.subtract(*np.percentile(times, (75, 25))) / 2 / np.median(times)),
    )


def search_row(candidates: int) -> Iterator[Row]:
    """A search's time beside that of its candidates, deployed: recalibration and evaluation."""
    with TemporaryDirectory() as folder:
        loop = _loop(_Watched, Path(folder), candidates)
        loop.run()
        seconds = time.perf_counter() - loop.begin - loop.beside
    yield Row(
        SECTION,
        f'ResNet of the digits, {candidates} candidates',
        'a search, from its first candidate to its last',
        1e3 * seconds,
        against='its candidates, deployed: recalibration and evaluation',
        reference=1e3 * loop.least,
        most=1.1,
    )


def workers_row(workers: int, candidates: int) -> Iterator[Row]:
    """Candidates a second of several workers, on a core each, beside one."""
    one, several = _rate(1, candidates), _rate(workers, workers * candidates)
    yield Row(
        SECTION,
        f'ResNet of the digits, {workers} workers on as many cores',
        f'candidates a second, over {workers} times those of one worker ({one:.2f})',
        several / one / workers,
        '',
        least=0.8,
    )


def _rate(workers: int, candidates: int) -> float:
    """Candidates a second from the first to the last, of a study that workers share."""
    context = multiprocessing.get_context('spawn')
    with TemporaryDirectory() as folder:
        where, barrier = str(Path(folder) / 'shared.journal'), context.Barrier(workers)
        processes = [
            context.Process(
                target=_work, args=(str(Path(folder) / str(number)), candidates, where, barrier)
            )
            for number in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        with open_storage(where) as storage:
            trials = storage.get_all_trials(storage.get_all_studies()[0]._study_id)
    trials = [each for each in trials if each.state.name == 'COMPLETE']
    begin, end = (
        min(each.datetime_start for each in trials),
        max(each.datetime_complete for each in trials),
    )
    return len(trials) / (end - begin).total_seconds()


def _work(folder: str, candidates: int, where: str, barrier: Any) -> None:
    torch.set_num_threads(1)
    loop = _loop(_Together, Path(folder), candidates, storage=where)
    loop.barrier = barrier
    loop.run()


def _loop(kind: type[Any], folder: Path, candidates: int, **options: Any) -> Any:
    """A search on the digits, of a supernet with random weights."""
    cfg = load_config(CONFIG)
    cfg.work_dir, cfg.log_level = str(folder), logging.WARNING
    cfg.val_dataloader.dataset.split = 'train'  # more images
    cfg.val_cfg = dict(type='mmprune.OptunaSearchLoop', constraints=dict(macs=0.5))
    runner = build_runner(cfg)
    return kind(
        runner,
        cfg.val_dataloader,
        cfg.val_evaluator,
        constraints=dict(macs=0.5),
        candidates=candidates,
        **options,
    )
