"""A classifier, a transform and a metric that need mmengine alone."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS, TRANSFORMS
from torch import nn
from torch.nn import functional as F


@TRANSFORMS.register_module()
class PackPlain:
    """A sample of mmprune.Digits as a tensor and a label."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = torch.from_numpy(sample['img'])[None].float() / 255
        return {'inputs': image, 'data_samples': torch.tensor(sample['gt_label'])}


@MODELS.register_module()
class PlainClassifier(BaseModel):
    """Two convolutions and a linear layer, for 8x8 grey images."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        scores = self.head(self.features(inputs).mean((2, 3)))
        if mode == 'loss':
            return {'loss': F.cross_entropy(scores, data_samples)}
        if mode == 'predict':
            return list(zip(scores.argmax(1).tolist(), data_samples.tolist(), strict=True))
        return scores


@METRICS.register_module()
class PlainAccuracy(BaseMetric):
    """Percent of the images that are told right."""

    default_prefix = 'accuracy'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(predicted == label for predicted, label in data_samples)

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return {'top1': 100 * sum(results) / len(results)}
