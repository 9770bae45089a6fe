"""Losses between a student's and a teacher's outputs."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.registry import MODELS


@MODELS.register_module()
class KLDivergence(nn.Module):
    """Kullback-Leibler divergence of two softmaxes at a temperature.

    ``tau ** 2 * KL(softmax(teacher / tau) || softmax(student / tau))``: the
    factor keeps the size of the gradients when the temperature changes (Hinton
    et al., "Distilling the Knowledge in a Neural Network", 2015, section 2).
    Computed in float32 whatever the outputs are in.

    Args:
        tau: The temperature, above 0. Higher is softer.
        reduction: How ``torch.nn.functional.kl_div`` reduces; 'batchmean' is
            the divergence per sample.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: If ``tau`` is not above 0.
    """

    def __init__(
        self,
        tau: float = 1.0,
        reduction: Literal['batchmean', 'sum', 'mean', 'none'] = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f'KLDivergence: tau must be above 0, got {tau}')
        self.tau = tau
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss.

        Args:
            student: Logits, shape (N, num_classes).
            teacher: Logits of the same shape; no gradient flows into them.
        """
        divergence = F.kl_div(
            F.log_softmax(student.float() / self.tau, dim=1),
            F.log_softmax(teacher.detach().float() / self.tau, dim=1),
            reduction=self.reduction,
            log_target=True,
        )
        return self.loss_weight * self.tau**2 * divergence
