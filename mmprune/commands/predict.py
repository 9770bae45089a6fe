"""Predictions of a classifier for every image of a dataset, to be compared one by one."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about a dataset.

    Attributes:
        scores: Probability of each class, shape (N, num_classes).
        labels: The true class, shape (N,).
    """

    scores: Tensor
    labels: Tensor

    @property
    def classes(self) -> Tensor:
        """The predicted class of each image, shape (N,)."""
        return self.scores.argmax(dim=1)

    @property
    def accuracy(self) -> float:
        """How many of a hundred images are predicted right."""
        return float((self.classes == self.labels).double().mean()) * 100

    def num_different(self, other: 'Predictions') -> int:
        """Return for how many images another classifier says another class."""
        return int((self.classes != other.classes).sum())


@torch.no_grad()
def predict_dataset(model: BaseModel, dataloader: dict[str, Any]) -> Predictions:
    """Predict every image of a dataset.

    Args:
        model: A classifier of mmcls, or an algorithm around one, in eval mode.
        dataloader: Config of a dataloader of mmengine that does not shuffle.
    """
    samples = [
        sample for batch in Runner.build_dataloader(dataloader) for sample in model.test_step(batch)
    ]
    return Predictions(
        torch.stack([sample.pred_label.score.cpu() for sample in samples]),
        torch.cat([sample.gt_label.label.cpu() for sample in samples]),
    )
