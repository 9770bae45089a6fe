"""How long networks take."""

import time
from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def latencies_ms(
    networks: Sequence[nn.Module], images: torch.Tensor, num_runs: int = 60
) -> list[float]:
    """Return the median time of each network's forward pass over a batch, in milliseconds.

    The networks take turns, so that whatever else the machine does meanwhile
    slows all of them alike.

    Args:
        networks: In eval mode, on the CPU.
        images: The batch, shape (N, C, H, W).
        num_runs: Passes of each network; the first sixth of them is not counted.
    """
    times = torch.empty(num_runs, len(networks))
    for run in range(num_runs):
        for number, network in enumerate(networks):
            start = time.perf_counter()
            network(images)
            times[run, number] = time.perf_counter() - start
    # The first passes warm the caches up.
    return (times[num_runs // 6 :].median(dim=0).values * 1000).tolist()
