"""A step of mmprune beside the same of Torch-Pruning, the two taking turns."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from statistics import geometric_mean
from typing import Any

import torch
from torch import nn

from mmprune.bench.networks import one_thread
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row
from mmprune.latency.timing import Times, interleaved

PEER_SECONDS = 30
"""How long Torch-Pruning may take on one network; on some it would take for ever."""
Does = Callable[[nn.Module, torch.Tensor], Any]


def computing(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    device: torch.device | str,
    before: Mapping[str, Callable[[], Any]],
) -> dict[str, Times]:
    """Times of calls that take turns; on the CPU what one thread computes, whatever else runs."""
    if torch.device(device).type != 'cpu':
        return interleaved(calls, seconds, device, before=before)
    with one_thread():
        return interleaved(calls, seconds, device, before=before, clock=time.process_time)


class Fresh:
    """Does something with a copy of a network, one per round: it changes its network."""

    def __init__(self, does: Does, network: nn.Module, data: torch.Tensor) -> None:
        self.does, self.network, self.data = does, network, data
        self.copy = network

    def make(self) -> None:
        """Make the next copy."""
        self.copy = copy.deepcopy(self.network)

    def __call__(self) -> Any:
        """Do it."""
        return self.does(self.copy, self.data)


def beside_peer(
    network: nn.Module,
    data: torch.Tensor,
    ours: Does,
    theirs: Does | None,
    options: BenchOptions,
    others: Mapping[str, Callable[[], Any]] | None = None,
    proves: Callable[[Any], Any] = lambda result: None,
) -> dict[str, Times]:
    """Times of ``'ours'``, of ``'peer'`` where that can do it within its time, and of others.

    Args:
        network: A copy of it is given to each.
        data: Its input.
        ours: What is measured.
        theirs: What Torch-Pruning does, if it is installed; None for nothing.
        options: Say where, and how long in all.
        others: What else takes turns with them.
        proves: Raises if what the peer gives is no result.
    """
    sides = {'ours': Fresh(ours, network, data)}
    if theirs is not None and find_spec('torch_pruning'):
        peer = Fresh(theirs, network, data)
        peer.make()
        try:
            with within(PEER_SECONDS):
                proves(peer())
            sides['peer'] = peer
        except Exception:  # whatever it raises on what it does not know
            pass
    before: dict[str, Callable[[], Any]] = {name: side.make for name, side in sides.items()}
    before.update(dict.fromkeys(others or (), partial(network.zero_grad, set_to_none=True)))
    return computing({**(others or {}), **sides}, options.seconds / 3, options.device, before)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer, where the system has alarms."""
    if not hasattr(signal, 'SIGALRM'):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f'took longer than {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Fastest:
    """Seconds of the fastest rounds of every network, for the means.

    Args:
        section: Of the rows.
        what: What was timed, in words, by its name.
    """

    def __init__(self, section: str, what: Mapping[str, str]) -> None:
        self.section, self.what = section, what
        self.seconds: dict[str, dict[str, float]] = {}

    def note(self, network: str, times: Mapping[str, Times]) -> None:
        """Keep those of a network."""
        self.seconds[network] = {name: each.fastest for name, each in times.items()}

    def row(
        self,
        network: str,
        data: torch.Tensor,
        times: Mapping[str, Times],
        other: str,
        most: float | None = None,
    ) -> Row:
        """What mmprune takes for a network beside something else, if that was measured."""
        subject = f'{network}, {"x".join(map(str, data.shape))}'
        against, reference = (self.what[other], times[other]) if other in times else ('', None)
        return Row.timed(
            self.section, subject, self.what['ours'], times['ours'], against, reference, most,
            of='fastest',
        )  # fmt: skip

    def rows(self, pairs: Iterable[tuple[str, str, float | None]]) -> Iterator[Row]:
        """Geometric means over the networks that have both; their ratio is that of the ratios.

        Args:
            pairs: What stands beside what, and the largest ratio that is aimed at.
        """
        for first, second, most in pairs:
            both = [own for own in self.seconds.values() if {first, second} <= own.keys()]
            if both:
                means = [1e3 * geometric_mean(own[n] for own in both) for n in (first, second)]
                yield Row(
                    self.section,
                    f'geometric mean over {len(both)} networks',
                    self.what[first],
                    means[0],
                    against=self.what[second],
                    reference=means[1],
                    most=most,
                )
