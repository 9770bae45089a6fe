"""Losses between a student's and a teacher's outputs."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.errors import InputError
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
        return self.loss_weight * _divergence(student, teacher, self.tau, self.reduction)


@MODELS.register_module()
class ChannelWiseDivergence(nn.Module):
    """Kullback-Leibler divergence of where each channel is active, for dense predictions.

    Every channel is a distribution over the positions of an image: its softmax over them at
    a temperature (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", 2021,
    section 3.2). The divergences are multiplied by ``tau ** 2``, and averaged over channels and
    samples. Computed in float32 whatever the outputs are in.

    Args:
        tau: The temperature, above 0.
        loss_weight: Factor of the loss.

    Raises:
        InputError: If ``tau`` is not above 0.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        if tau <= 0:
            raise InputError(f'ChannelWiseDivergence: tau must be above 0, got {tau}')
        self.tau = tau
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss.

        Args:
            student: Features or logits, shape (N, C, positions...).
            teacher: Those of the teacher, same shape; no gradient flows into them.

        Raises:
            InputError: If there are no positions.
        """
        if student.dim() < 3:
            raise InputError(
                'ChannelWiseDivergence compares positions, as in (N, C, H, W), but was given '
                f'{tuple(student.shape)}; use KLDivergence for the scores of whole images'
            )
        rows, wanted = (each.flatten(2).flatten(0, 1) for each in (student, teacher))
        return self.loss_weight * _divergence(rows, wanted, self.tau, 'batchmean')


def _divergence(student: Tensor, teacher: Tensor, tau: float, reduction: str) -> Tensor:
    """``tau ** 2 * KL(softmax(teacher / tau) || softmax(student / tau))`` along dim 1."""
    logits, wanted = student.float() / tau, teacher.detach().float() / tau
    return tau**2 * F.kl_div(
        logits.log_softmax(1), wanted.log_softmax(1), reduction=reduction, log_target=True
    )


@MODELS.register_module()
class L2Loss(nn.Module):
    """Mean squared difference of features.

    Computed in float32 whatever the features are in.

    Args:
        normalise: Divide by the mean square of the teacher's features, so that one
            ``loss_weight`` does for features of any size.
        loss_weight: Factor of the loss.
    """

    def __init__(self, normalise: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.normalise = normalise
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss.

        Args:
            student: Features of any shape.
            teacher: Those of the teacher, same shape; no gradient flows into them.
        """
        teacher = teacher.detach().float()
        loss = F.mse_loss(student.float(), teacher)
        if self.normalise:
            loss = loss / teacher.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return self.loss_weight * loss
