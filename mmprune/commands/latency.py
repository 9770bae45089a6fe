"""How long networks take."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from mmprune.latency import interleaved


@torch.no_grad()
def latencies_ms(
    networks: Sequence[nn.Module], images: torch.Tensor, num_runs: int = 50
) -> list[float]:
    """Return the median time of each network's forward pass over a batch, in milliseconds.

    The networks take turns, so that whatever else the machine does meanwhile
    slows all of them alike.

    Args:
        networks: In eval mode, on the CPU.
        images: The batch, shape (N, C, H, W).
        num_runs: Passes of each network that are counted; a fifth as many warm up.
    """
    calls = {str(number): partial(each, images) for number, each in enumerate(networks)}
    times = interleaved(
        calls, seconds=0, least_rounds=num_runs, most_rounds=num_runs, warm_up=num_runs // 5
    )
    return [1e3 * times[name].median for name in calls]
