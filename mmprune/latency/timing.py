"""Measuring times so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmprune.collector import collector_waits

Call = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Times:
    """Seconds of the rounds of one call.

    Attributes:
        seconds: One number per round, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The time that half of the rounds stay below."""
        return float(np.median(self.seconds))

    @property
    def fastest(self) -> float:
        """The time of the fastest round: what is left when nothing else runs meanwhile."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles over the median."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float((high - low) / 2 / self.median)


def _nothing() -> None:
    pass


def synchronise(device: torch.device | str) -> None:
    """Wait until a device has done what it was given."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def seconds_of(
    call: Call, device: torch.device | str = 'cpu', clock: Clock = time.perf_counter
) -> float:
    """How long a call takes on an idle device, until that is idle again."""
    synchronise(device)
    start = clock()
    call()
    synchronise(device)
    return clock() - start


def interleaved(
    calls: Mapping[str, Call],
    seconds: float,
    device: torch.device | str = 'cpu',
    least_rounds: int = 3,
    most_rounds: int = 200,
    before: Mapping[str, Call] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Times]:
    """Times of several calls that take turns: A B C, A B C, and so on.

    Args:
        calls: What to measure, by name.
        seconds: When to stop, unless ``least_rounds`` have not been done yet.
        device: Where the calls compute.
        least_rounds: Rounds that are done in any case.
        most_rounds: Rounds that are enough.
        before: What is done before a call of this name, untimed.
        clock: Gives seconds: ``time.process_time`` those that the process has computed.
    """
    ready = dict(before or {})
    for name, call in calls.items():  # a round that warms up
        ready.get(name, _nothing)()
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    gc.collect()
    with collector_waits():
        for number in range(most_rounds):
            if number >= least_rounds and time.perf_counter() - start > seconds:
                break
            for name, call in calls.items():
                ready.get(name, _nothing)()
                found[name].append(seconds_of(call, device, clock))
    return {name: Times(tuple(each)) for name, each in found.items()}
