"""Python's garbage collector, told to wait."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """Context in which garbage that refers to itself is not looked for; it is afterwards.

    Preparing a network makes very many small objects that stay, and again and again the collector
    would walk through all of them and find nothing: up to a quarter of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
