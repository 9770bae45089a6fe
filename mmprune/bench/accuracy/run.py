"""What tools/bench_accuracy.py does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmprune.bench.accuracy.criteria import SCOPES
from mmprune.bench.accuracy.networks import NETWORKS
from mmprune.bench.accuracy.report import insert_into_docs, show, write_markdown
from mmprune.bench.accuracy.unit import (
    MEASURES,
    METHODS,
    UNPRUNED,
    Key,
    Settings,
    Unit,
    key_of,
    keys,
    read,
    settings_of,
)
from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import check_outputs

SEEDS = (0, 1, 2, 3, 4)
POLL = 3.0
"""Seconds between looks at the rows on disk."""
STOP = '.stop'
"""A file that tells processes to end after the row that they are at."""


@dataclass(frozen=True)
class AccuracyOptions:
    """What is measured, and where the results go.

    Attributes:
        networks: Some of ``NETWORKS``.
        seeds: One run of everything for each; None for ``SEEDS``, or one where it is ``quick``.
        methods: Names of criteria, ``SLIMMING``, ``AUTOSLIM``; None for all.
        scopes: Some of ``SCOPES``, in which criteria are measured.
        measures: Some of ``MEASURES``; None for all.
        quick: Tiny networks that are hardly trained: to see that everything runs.
        workers: Processes, of one thread each.
        work_dir: For the rows, trained weights, and the tables.
        docs: Page to put the tables into; its plot goes into ``images`` beside it. None: no page.
        show: Measure nothing: show what is there of these networks, seeds, methods and scopes.
    """

    networks: Sequence[str] = tuple(NETWORKS)
    seeds: Sequence[int] | None = None
    methods: Sequence[str] | None = None
    scopes: Sequence[str] = SCOPES
    measures: Sequence[str] | None = None
    quick: bool = False
    workers: int = 2
    work_dir: str | os.PathLike[str] = 'work_dirs/bench-accuracy'
    docs: str | os.PathLike[str] | None = None
    show: bool = False


def run_accuracy(options: AccuracyOptions = AccuracyOptions()) -> list[dict[str, Any]]:
    """Measure what is missing, print the tables, and write them.

    A run that was stopped goes on where it was: every row is on disk when it is measured.

    Returns:
        The rows by network and seed, as plain data.

    Raises:
        InputError: An option makes no sense, or the work directory holds rows of other settings;
            nothing is measured then.
    """
    unknown = set(options.networks) - NETWORKS.keys()
    if unknown or not options.networks:
        raise InputError(f'networks are {", ".join(NETWORKS)}, not {sorted(unknown) or "none"}')
    methods = METHODS if options.methods is None else tuple(options.methods)
    if set(methods) - set(METHODS) or not methods:
        wrong = sorted(set(methods) - set(METHODS)) or 'none'
        raise InputError(f'methods are {", ".join(METHODS)}, not {wrong}')
    if set(options.scopes) - set(SCOPES) or not options.scopes:
        raise InputError(f'scopes are {", ".join(SCOPES)}, not {list(options.scopes)}')
    measures = tuple(MEASURES) if options.measures is None else tuple(options.measures)
    if set(measures) - set(MEASURES) or not measures:
        raise InputError(f'measures are {", ".join(MEASURES)}, not {list(measures)}')
    if options.workers < 1:
        raise InputError(f'at least one worker is needed, got {options.workers}')
    seeds = options.seeds if options.seeds is not None else SEEDS[: 1 if options.quick else None]
    folder = Path(options.work_dir).resolve()
    check_outputs([options.docs], [folder])
    parts = [(name, seed) for seed in seeds for name in options.networks]
    if not options.show:
        with_peer = find_spec('torch_pruning') is not None
        rows = _Rows(with_peer, options.quick, methods, tuple(options.scopes), measures)
        _measure(rows, parts, folder, options.workers)
    contents = _contents(methods, options.scopes, parts, folder)
    write_markdown(contents, folder / 'accuracy.md')
    if options.docs is not None:
        insert_into_docs(contents, Path(options.docs))
    show(contents)
    print(f'written: {folder}')
    return contents


def _contents(
    methods: Sequence[str], scopes: Sequence[str], parts: Sequence[tuple[str, int]], folder: Path
) -> list[dict[str, Any]]:
    """The rows on disk, of these methods and scopes."""
    paths = [folder / f'{name}-seed{seed}.json' for name, seed in parts]
    found = [read(path) for path in paths if path.is_file()]
    if not found:
        raise MissingFileError(f'{folder}: there are no rows; run tools/bench_accuracy.py first')
    wanted = {*methods, UNPRUNED}
    for content in found:
        content['rows'] = [
            row
            for row in content['rows']
            if row['method'] in wanted and row['scope'] in {*scopes, ''}
        ]
    return found


@dataclass(frozen=True)
class _Rows:
    """Which rows of every network and seed are wanted."""

    with_peer: bool
    quick: bool
    methods: Sequence[str]
    scopes: Sequence[str]
    measures: Sequence[str]

    def settings(self, name: str) -> Settings:
        """Of a network."""
        return settings_of(name, self.with_peer, self.quick)

    def unit(self, name: str, seed: int, folder: Path) -> Unit:
        """A network and seed."""
        return Unit(self.settings(name), name, seed, folder)

    def keys(self, name: str) -> set[Key]:
        """The rows of a network and seed."""
        return set(keys(self.settings(name), self.methods, self.scopes, name))


def _measure(wanted: _Rows, parts: Sequence[tuple[str, int]], folder: Path, workers: int) -> None:
    """Let processes measure a network and seed each, until all are done."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    for name, seed in parts:
        wanted.unit(name, seed, folder)  # refuses rows of other settings
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    pool = ProcessPoolExecutor(workers, get_context('spawn'), _begin, (folder,))
    with pool, Progress(*columns, console=console, transient=True) as progress:
        total = sum(len(wanted.keys(name)) for name, _ in parts)
        task = progress.add_task('rows', total=total)
        left = {
            pool.submit(_measure_unit, wanted, name, seed, folder, os.getpid())
            for name, seed in parts
        }
        try:
            while left:
                done, left = wait(left, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress.update(task, completed=_rows_on_disk(wanted, parts, folder))
        except BaseException:
            # Those that run already end after their row: nobody waits for them any more.
            (folder / STOP).touch()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            (folder / STOP).unlink(missing_ok=True)


def _rows_on_disk(wanted: _Rows, parts: Sequence[tuple[str, int]], folder: Path) -> int:
    paths = [(name, folder / f'{name}-seed{seed}.json') for name, seed in parts]
    return sum(
        key_of(row) in wanted.keys(name)
        and set(wanted.settings(name).of(row['program'])) & set(wanted.measures) <= row.keys()
        for name, path in paths
        if path.is_file()
        for row in read(path)['rows']
    )


def _begin(folder: Path) -> None:
    """What a process does first: one thread, and what it says goes to a file, not into the bar."""
    torch.set_num_threads(1)
    log = open(folder / 'workers.log', 'a', buffering=1, encoding='utf-8')  # noqa: SIM115
    sys.stdout = sys.stderr = log


def _measure_unit(wanted: _Rows, name: str, seed: int, folder: Path, parent: int) -> None:
    """Measure a network and seed, in a process of its own."""
    stop = folder / STOP
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # networks and peers comment on themselves
        # A process whose parent was killed must not go on beside the next run.
        unit = wanted.unit(name, seed, folder)
        unit.run(
            wanted.methods,
            wanted.scopes,
            lambda: os.getppid() == parent and not stop.exists(),
            wanted.measures,
        )
