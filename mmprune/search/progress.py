"""What a person sees of a search: a bar that lets log lines pass above it, figures in words."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Rate(ProgressColumn):
    """How many candidates are evaluated in a minute, by all workers."""

    def render(self, task: Task) -> Text:
        """Say so, as soon as it is known."""
        speed = task.finished_speed or task.speed
        return Text('' if speed is None else f'{60 * speed:.3g}/min')


@contextmanager
def search_progress(logger: logging.Logger, is_shown: bool = True) -> Iterator[Progress]:
    """Show a progress bar on the standard error while a search runs.

    The logger's console handlers write through the bar meanwhile, so that a
    line for every candidate scrolls above it. Nothing is drawn where the
    output is not a terminal. Tasks count candidates, and have a ``note``.

    Args:
        logger: The logger whose lines must not tear the bar.
        is_shown: Whether this process shows anything.
    """
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        TextColumn('{task.fields[note]}'),
    )
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, disable=not (is_shown and console.is_terminal))
    consoles = [
        (handler, handler.stream)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and handler.stream in (sys.__stdout__, sys.__stderr__)
    ]
    with progress:
        try:
            for handler, stream in consoles:
                # While the bar is live, rich has put its own streams into sys.
                handler.setStream(sys.stderr if stream is sys.__stderr__ else sys.stdout)
            yield progress
        finally:
            for handler, stream in consoles:
                handler.setStream(stream)


def in_words(metric: float | None) -> str:
    """A metric for a person."""
    return 'not measured' if metric is None else f'{metric:.4f}'


def duration(seconds: float) -> str:
    """A time for a person: seconds, minutes or hours."""
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} s'
