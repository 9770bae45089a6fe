"""One subnet, judged as it would be deployed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmprune.compensation import Compensation
from mmprune.models.norm_statistics import kept_norm_statistics, recalibrate_norm_statistics
from mmprune.pruners import StructurePruner
from mmprune.trace.model_state import modes_kept


@torch.no_grad()
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
    network, before = pruner.supernet.model, pruner.current_subnet()
    with kept_norm_statistics(network), modes_kept(network):
        try:
            pruner.set_subnet(subnet)
            network.eval()
            if compensation is not None:
                small = pruner.deploy_subnet(network).eval()
                pruner.compensate(small, list(batches), compensation)
                return metric(small)
            batches = list(batches)
            if batches:
                recalibrate_norm_statistics(network, batches)
            return metric(network)
        finally:
            pruner.set_subnet(before)
