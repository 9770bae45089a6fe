"""Peak memory: what torch allocates during a call, and what a process of its own needs."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmprune.bench.networks import batch_of, loss_of, network_of, prepared
from mmprune.bench.rows import Row
from mmprune.trace import trace

SECTION = 'tracing'
TARGET = 2.0
STATUS, RESET = Path('/proc/self/status'), Path('/proc/self/clear_refs')
WHAT = {
    'forward': 'one forward pass with gradients recorded',
    'trace': 'tracing',
    'prepare': 'prepare_from_supernet',
}


def allocated_peak(call: Callable[[], Any], device: torch.device | str = 'cpu') -> int:
    """Bytes that torch has allocated at most during a call, beyond those before it."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiled:
        result = call()
    events = profiled.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == '[memory]']
    del result
    return int(np.cumsum(changes).max(initial=0))


def forget_peak() -> None:
    """Give free memory back to the system, and look for the peak anew, where there are ways to."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        RESET.write_text('5')


def resident(key: str) -> int:
    """Bytes of memory of this process, from Linux's account of it; 0 where there is none.

    Args:
        key: ``'VmRSS'`` for what it has now, ``'VmHWM'`` for the most since ``forget_peak``.
    """
    if not STATUS.is_file():
        return 0
    lines = dict(line.split(':', 1) for line in STATUS.read_text().splitlines() if ':' in line)
    return 1024 * int(lines[key].split()[0]) if key in lines else 0


def peak_of(what: str, name: str, size: int, threads: int) -> int:
    """Bytes that a step needs beyond the network, as this process's memory tells.

    Args:
        what: A key of ``WHAT``.
        name: Model config of mmcls.
        size: Height and width of the image.
        threads: CPU threads of torch.
    """
    torch.set_num_threads(threads)
    network = network_of(name, 'cpu')
    data = batch_of(network, 1, size, 'cpu')
    with torch.no_grad():
        network(data)  # what the libraries allocate once
    forget_peak()
    before = resident('VmRSS')
    if what == 'forward':
        loss = loss_of(network(data))
        assert loss.requires_grad
    elif what == 'trace':
        trace(network, data)
    else:
        prepared(network, data)
    return resident('VmHWM') - before


def measured_apart(what: str, name: str, size: int, threads: int) -> int:
    """``peak_of`` in a process of its own."""
    with get_context('spawn').Pool(1) as pool:
        return pool.apply_async(peak_of, (what, name, size, threads)).get(timeout=300)


def memory_of_tracing(name: str, size: int, threads: int) -> Iterator[Row]:
    """Peaks of tracing and of preparing beside that of a forward pass."""
    peaks = {what: measured_apart(what, name, size, threads) for what in WHAT}
    for what in ('trace', 'prepare'):
        yield Row(
            SECTION,
            f'{name}, {size}x{size}',
            f'{WHAT[what]}: memory beyond the network',
            peaks[what] / 1e6,
            'MB',
            WHAT['forward'],
            peaks['forward'] / 1e6,
            TARGET,
        )
