"""The method of pruners that makes up for what was removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmprune.compensation import Compensation, CompensationReport, compensate
from mmprune.compensation.compensate import Forward
from mmprune.pruners.prepared import Prepared


class Compensating(Prepared):
    """What pruners do after the cut; see docs/compensation.md."""

    def compensate(
        self,
        deployed: nn.Module,
        data: Any,
        method: str | Mapping[str, Any] | Compensation = 'LeastSquares',
        channel_cfg: Mapping[str, Any] | str | Path | None = None,
        forward: Forward | None = None,
    ) -> CompensationReport:
        """Give a deployed network weights that make up for what was removed.

        Args:
            deployed: The plain network of a subnet; its weights are changed in place.
            data: Images without labels: a batch, or an iterable of batches.
            method: Name or config in ``COMPENSATIONS``, or an instance.
            channel_cfg: The subnet; the one that is set if None.
            forward: ``forward(model, batch)``, where a batch is more than a model's inputs.

        Raises:
            InputError: The network is not the subnet's, or there are no images.
        """
        cfg = self.export_subnet() if channel_cfg is None else channel_cfg
        return compensate(self.supernet.model, deployed, cfg, data, method, forward)
