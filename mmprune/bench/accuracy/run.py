"""What tools/bench_accuracy.py does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from mmprune.bench.accuracy.criteria import MEASURES, SCOPES
from mmprune.bench.accuracy.networks import NETWORKS, settings_of
from mmprune.bench.accuracy.report import insert_into_docs, markdown, show
from mmprune.bench.accuracy.supernets import WAYS
from mmprune.bench.accuracy.unit import METHODS, UNPRUNED, Unit, read
from mmprune.bench.pages import check_chosen
from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import check_outputs, write_text

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class AccuracyOptions:
    """What is measured, and where the results go.

    Attributes:
        networks: Some of ``NETWORKS``.
        seeds: One run of everything for each; None for ``SEEDS``, or one where it is ``quick``.
        methods: Some of ``METHODS``; None for all.
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
    methods = METHODS if options.methods is None else tuple(options.methods)
    measures = tuple(MEASURES) if options.measures is None else tuple(options.measures)
    check_chosen('networks', options.networks, NETWORKS)
    check_chosen('methods', methods, METHODS)
    check_chosen('scopes', options.scopes, SCOPES)
    check_chosen('measures', measures, MEASURES)
    if options.workers < 1:
        raise InputError(f'at least one worker is needed, got {options.workers}')
    seeds = options.seeds if options.seeds is not None else SEEDS[: 1 if options.quick else None]
    folder = Path(options.work_dir).resolve()
    check_outputs([options.docs], [folder])
    parts = [(name, seed) for seed in seeds for name in options.networks]
    if not options.show:
        with_peer = find_spec('torch_pruning') is not None
        units = [
            Unit(settings_of(name, with_peer, options.quick), name, seed, folder)
            for name, seed in parts
        ]
        folder.mkdir(parents=True, exist_ok=True)
        run = partial(_run, methods=methods, scopes=options.scopes, measures=measures)
        console = Console(stderr=True)
        with get_context('spawn').Pool(options.workers, _begin, (folder,)) as pool:
            done = pool.imap_unordered(run, units)
            for _ in track(done, 'networks', len(units), console=console, transient=True):
                pass
    contents = _contents(methods, options.scopes, parts, folder)
    write_text(markdown(contents), folder / 'accuracy.md')
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
            if row['method'] in wanted and (row['method'] in WAYS or row['scope'] in {*scopes, ''})
        ]
    return found


def _begin(folder: Path) -> None:
    """What a process does first: one thread, and what it says goes to a file, not into the bar."""
    torch.set_num_threads(1)
    log = open(folder / 'workers.log', 'a', buffering=1, encoding='utf-8')  # noqa: SIM115
    sys.stdout = sys.stderr = log


def _run(unit: Unit, **wanted: Sequence[str]) -> None:
    """Measure a network and seed, in a process of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # networks and peers comment on themselves
        unit.run(**wanted)
