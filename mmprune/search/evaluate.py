"""One subnet, judged as it would be deployed."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmprune.compensation import Compensation, run_inputs
from mmprune.models.norm_statistics import recalibrate_norm_statistics
from mmprune.pruners import StructurePruner

T = TypeVar('T')


def evaluate_subnet(
    pruner: StructurePruner,
    subnet: Mapping[str, Tensor],
    metric: Callable[[nn.Module], float],
    batches: Iterable[Any] = (),
    compensation: str | Mapping[str, Any] | Compensation | None = None,
) -> float:
    """Measure a subnet, and leave the supernet as it was.

    Args:
        pruner: Prepared.
        subnet: The subnet.
        metric: Measures a network, which is in eval mode.
        batches: Inputs, or (inputs, labels), over which norm statistics are computed anew; the
            same ones for every subnet, or figures cannot be compared. Without them statistics
            stay.
        compensation: A method of ``COMPENSATIONS``: ``metric`` then measures a small network
            whose weights are fitted to ``batches``; its statistics stay those of the full one.

    Returns:
        What ``metric`` gives.
    """
    inputs = list(batches)
    if compensation is None:
        return judged(pruner, subnet, metric, partial(recalibrate, batches=inputs))
    change = partial(pruner.compensate, data=inputs, method=compensation, forward=run_inputs)
    return judged(pruner, subnet, metric, change)


@torch.no_grad()
def judged(
    pruner: StructurePruner,
    subnet: Mapping[str, Tensor],
    measure: Callable[[Any], T],
    change: Callable[[nn.Module], Any],
) -> T:
    """Measure the small network of a subnet, and leave the supernet as it was.

    To cut it out takes no longer than what a supernet does beside, in the passes that follow.

    Args:
        pruner: Prepared.
        subnet: The subnet.
        measure: Measures a network, which is in eval mode.
        change: What is done to the small network before; its norms have the full one's statistics.
    """
    before = pruner.current_subnet()
    try:
        pruner.set_subnet(subnet)
        small = pruner.deploy_subnet(pruner.supernet.model).eval()
        change(small)
        return measure(small.eval())
    finally:
        pruner.set_subnet(before)


def recalibrate(network: nn.Module, batches: Collection[Any]) -> None:
    """Compute norm statistics over batches; they stay if there are none."""
    if len(batches):
        recalibrate_norm_statistics(network, batches)
