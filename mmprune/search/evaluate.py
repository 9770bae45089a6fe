"""One subnet, judged as it would be deployed."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmprune.compensation import Compensation
from mmprune.models.norm_statistics import kept_norm_statistics, recalibrate_norm_statistics
from mmprune.pruners import StructurePruner
from mmprune.trace.model_state import modes_kept

T = TypeVar('T')


def evaluate_subnet(
    pruner: StructurePruner,
    subnet: Mapping[str, Tensor],
    metric: Callable[[nn.Module], float],
    batches: Iterable[Tensor] = (),
    compensation: str | Mapping[str, Any] | Compensation | None = None,
) -> float:
    """Measure a subnet, and leave the supernet as it was.

    Args:
        pruner: Prepared.
        subnet: The subnet.
        metric: Measures a network, which is in eval mode.
        batches: Inputs, without labels, over which norm statistics are computed anew; the same
            ones for every subnet, or figures cannot be compared. Without them statistics stay.
        compensation: A method of ``COMPENSATIONS``: ``metric`` then measures a small network
            whose weights are fitted to ``batches``; its statistics stay those of the full one.

    Returns:
        What ``metric`` gives.
    """
    inputs = list(batches)
    if compensation is None:
        return judged(pruner, subnet, metric, inputs)
    change = partial(pruner.compensate, data=inputs, method=compensation)
    return judged(pruner, subnet, metric, change=change)


@torch.no_grad()
def judged(
    pruner: StructurePruner,
    subnet: Mapping[str, Tensor],
    measure: Callable[[nn.Module], T],
    batches: Collection[Tensor | Mapping[str, Any]] = (),
    change: Callable[[nn.Module], Any] | None = None,
) -> T:
    """Measure a subnet in the supernet, or deployed and changed, and leave the supernet as it was.

    Args:
        pruner: Prepared.
        subnet: The subnet.
        measure: Measures a network, which is in eval mode.
        batches: What norm statistics are computed over; they stay if there are none.
        change: What is done to a small network, which is measured then in the place of the
            supernet; its norms begin with the full network's statistics.
    """
    network, before = pruner.supernet.model, pruner.current_subnet()
    with kept_norm_statistics(network), modes_kept(network):
        try:
            pruner.set_subnet(subnet)
            network.eval()
            if change is not None:
                small = pruner.deploy_subnet(network).eval()
                change(small)
                return measure(small.eval())
            if len(batches):
                recalibrate_norm_statistics(network, batches)
            return measure(network)
        finally:
            pruner.set_subnet(before)
