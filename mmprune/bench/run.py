"""What tools/bench.py does."""

from __future__ import annotations

import json
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmprune.bench.autoslim import autoslim_steps
from mmprune.bench.costs import cost_steps
from mmprune.bench.execution import ExecutionOptions, Step, execution_steps
from mmprune.bench.job import JobOptions, job_steps
from mmprune.bench.latencies import latency_steps
from mmprune.bench.learned import learned_steps
from mmprune.bench.pages import installed_versions
from mmprune.bench.report import about, insert_into_docs, tables, write_markdown
from mmprune.bench.rows import Row
from mmprune.bench.tracing import TracingOptions, tracing_steps
from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import atomic_path
from mmprune.latency import Device
from mmprune.version import __version__
from mmprune.zoo.models import resolve

FORMAT = 'mmprune benchmark 1'
SECTIONS = ('execution', 'peers', 'tracing', 'job', 'cost', 'latency')
PACKAGES = ('torch', 'mmengine', 'mmcls', 'torch-pruning')
WIDTH = 170
"""Columns of the tables where the output is not a terminal."""
_FILES = ('json', 'markdown', 'docs')
QUICK_MODELS = ('resnet18', 'mobilenet_v2_1x')


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and where the results go.

    Attributes:
        sections: Some of ``SECTIONS``.
        quick: Small networks on small images, for a minute: to see that everything runs.
        models: Networks whose preparation is measured; the default list if there are none.
        networks: Networks whose execution is measured.
        size: Height and width of the images.
        seconds: How long each set of passes takes turns.
        kept: Which channels the subnets keep: ``'any'`` or the ``'first'``.
        device: Where to measure.
        threads: CPU threads of torch.
        json: File for all numbers.
        markdown: File for the tables.
        docs: Page to put the tables into; None for none.
    """

    sections: Sequence[str] = SECTIONS
    quick: bool = False
    models: Sequence[str] = ()
    networks: Sequence[str] = ('resnet50', 'mobilenet_v2_1x')
    size: int = 224
    seconds: float = 9.0
    kept: str = 'any'
    device: str = 'cpu'
    threads: int = 2
    json: str | os.PathLike[str] = 'work_dirs/bench/bench.json'
    markdown: str | os.PathLike[str] = 'work_dirs/bench/bench.md'
    docs: str | os.PathLike[str] | None = None


def run_bench(options: BenchOptions = BenchOptions()) -> dict[str, Any]:
    """Measure, print the tables, and write them.

    A step that fails is told at the end, and the others are measured all the same.

    Returns:
        All numbers, as plain data.

    Raises:
        InputError: A section, a network or the device is unknown; nothing is measured then.
    """
    unknown = set(options.sections) - set(SECTIONS)
    if unknown or not options.sections:
        raise InputError(f'sections are {", ".join(SECTIONS)}, not {sorted(unknown) or "none"}')
    for name in (*options.models, *options.networks):
        resolve(name)
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
    with atomic_path(options.json) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    write_markdown(content, options.markdown)
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
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f'{path}: there are no results; run tools/bench.py first')
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        if content['format'] != FORMAT:
            raise ValueError(f'the format is {content["format"]!r}, not {FORMAT!r}')
        [Row.from_dict(row) for row in content['rows']]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: no results of a benchmark ({error})') from error
    return dict(content)


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
    quick = options.quick
    execution = ExecutionOptions(
        networks=QUICK_MODELS[:1] if quick else tuple(options.networks),
        batches=(1, 2) if quick else (1, 8),
        size=64 if quick else options.size,
        seconds=0.5 if quick else options.seconds,
        kept=options.kept,
        device=options.device,
        with_peers='peers' in options.sections,
    )
    tracing = TracingOptions(
        size=execution.size,
        seconds=execution.seconds / 3,
        threads=options.threads,
        device=options.device,
        with_peers=execution.with_peers,
    )
    if quick:
        tracing = replace(
            tracing, models=QUICK_MODELS, memory_models=QUICK_MODELS[:1], blocks=(10, 80)
        )
    job = JobOptions(size=execution.size, seconds=execution.seconds / 3, device=options.device)
    if quick:
        job = replace(job, models=QUICK_MODELS)
    if options.models:
        tracing = replace(tracing, models=tuple(options.models))
        job = replace(job, models=tuple(options.models))
    if 'execution' in options.sections:
        yield from execution_steps(execution)
        yield from autoslim_steps(execution)
        yield from learned_steps(execution)
    if 'tracing' in options.sections:
        yield from tracing_steps(tracing)
    if 'job' in options.sections:
        yield from job_steps(job)
    if 'cost' in options.sections:
        yield from cost_steps(execution.networks, execution.size, execution.seconds / 2)
    if 'latency' in options.sections:
        yield from latency_steps(
            execution.networks[-1:], execution.size, options.device, execution.seconds / 9
        )


def _measured(todo: Sequence[Step]) -> tuple[list[Row], dict[str, str], dict[str, float]]:
    """The rows of all steps, why some gave none, and how long each step took."""
    rows: list[Row] = []
    problems: dict[str, str] = {}
    seconds: dict[str, float] = {}
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('', total=len(todo))
        for title, step in todo:
            progress.update(task, description=title)
            start = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')  # networks and peers comment on themselves
                    rows.extend(step())
            except Exception as error:
                console.print(traceback.format_exc(), markup=False)
                problems[title] = f'{type(error).__name__}: {error}'
            seconds[title] = round(time.monotonic() - start, 1)
            progress.advance(task)
    return rows, problems, seconds
