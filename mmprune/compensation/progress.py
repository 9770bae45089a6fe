"""A progress bar on the standard error, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int], Callable[[], Any]]]:
    """Context of a bar; yields ``stage(description, total)``, which gives what advances it."""
    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def stage(description: str, total: int) -> Callable[[], Any]:
            task = progress.add_task(description, total=total)
            return lambda: progress.advance(task)

        yield stage
