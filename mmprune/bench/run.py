"""What tools/bench.py does."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track

from mmprune.bench.autoslim import autoslim_steps
from mmprune.bench.costs import cost_steps
from mmprune.bench.execution import execution_steps
from mmprune.bench.job import job_steps
from mmprune.bench.latencies import latency_steps
from mmprune.bench.learned import learned_steps
from mmprune.bench.options import SECTIONS, BenchOptions
from mmprune.bench.pages import check_chosen, read_rows
from mmprune.bench.report import about, insert_into_docs, markdown, tables
from mmprune.bench.rows import Row, Step
from mmprune.bench.searching import search_steps
from mmprune.bench.tracing import tracing_steps
from mmprune.datafiles import write_data
from mmprune.dependencies import installed_versions
from mmprune.errors import MissingFileError
from mmprune.fileio import check_outputs, write_text
from mmprune.latency import Device
from mmprune.version import __version__
from mmprune.zoo.models import resolve

FORMAT = 'mmprune benchmark 1'
PACKAGES = ('torch', 'mmengine', 'mmcls', 'torch-pruning')
WIDTH = 170
"""Columns of the tables where the output is not a terminal."""
PARTS = {
    'execution': (execution_steps, autoslim_steps, learned_steps),
    'tracing': (tracing_steps,),
    'job': (job_steps,),
    'cost': (cost_steps,),
    'latency': (latency_steps,),
    'search': (search_steps,),
}
"""Section -> what is to be done for it."""


def run_bench(options: BenchOptions) -> dict[str, Any]:
    """Measure, print the tables, and write them.

    A step that fails is told at the end, and the others are measured all the same.

    Returns:
        All numbers, as plain data.

    Raises:
        InputError: A section, a network or the device is unknown; nothing is measured then.
    """
    check_chosen('sections', options.sections, SECTIONS)
    for name in (*options.models, *options.networks):
        resolve(name)
    check_outputs([options.json, options.markdown, options.docs])
    torch.set_num_threads(options.threads)
    device, start = Device.of(options.device), time.monotonic()
    load = os.getloadavg()[0]
    # mmcls tells about every preprocessor that it builds.
    MMLogger.get_current_instance().setLevel('WARNING')
    rows, problems, seconds = _measured(list(steps(options)))
    content: dict[str, Any] = {
        'format': FORMAT,
        'device': asdict(device),
        'versions': {'mmprune': __version__, **installed_versions(PACKAGES)},
        'date': date.today().isoformat(),
        'seconds': time.monotonic() - start,
        'load': load,
        'options': {
            **asdict(options),
            'json': str(options.json),
            'markdown': str(options.markdown),
        },
        'rows': [row.as_dict() for row in rows],
        'problems': problems,
        'seconds_of_steps': seconds,
    }
    write_data(content, options.json)
    write_text(markdown(content), options.markdown)
    if options.docs is not None:
        insert_into_docs(content, Path(options.docs))
    show(content)
    print(f'written: {options.json}, {options.markdown}')
    return content


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The numbers that an earlier run has written.

    Raises:
        InputError: The file is missing, or none of a benchmark.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'{path}: there are no results; run tools/bench.py first')
    return read_rows(path, FORMAT, 'results of a benchmark', Row.from_dict)


def show(content: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    for table in tables([Row.from_dict(row) for row in content['rows']]):
        console.print(table)
    console.print(about(content), soft_wrap=True, highlight=False, markup=False)
    for title, problem in content['problems'].items():
        console.print(f'not measured: {title}: {problem}', soft_wrap=True, markup=False)


def steps(options: BenchOptions) -> Iterator[Step]:
    """Everything that is to be done, in order, with a title each."""
    options = options.small() if options.quick else options
    for section, parts in PARTS.items():
        for part in parts if section in options.sections else ():
            yield from part(options)


def _measured(todo: Sequence[Step]) -> tuple[list[Row], dict[str, str], dict[str, float]]:
    """The rows of all steps, why some gave none, and how long each step took."""
    rows: list[Row] = []
    problems: dict[str, str] = {}
    seconds: dict[str, float] = {}
    console = Console(stderr=True)
    for title, step in track(todo, 'measuring', console=console, transient=True):
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # networks and peers comment on themselves
                rows.extend(step())
        except Exception as error:
            console.print(traceback.format_exc(), markup=False)
            problems[title] = f'{type(error).__name__}: {error}'
        seconds[title] = round(time.monotonic() - start, 1)
    return rows, problems, seconds
