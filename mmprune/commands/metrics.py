"""What a model that is built already gives on a dataset: metrics of a config, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner
from torch import Tensor

from mmprune.config import enter_scope
from mmprune.missing_data import data_named


def metrics_of(
    model: BaseModel, cfg: Config, parts: Sequence[str] = ('test', 'val')
) -> dict[str, float]:
    """What the config's evaluator says about a model: see ``measure_of``."""
    return measure_of(cfg, parts)(model)


def measure_of(
    cfg: Config, parts: Sequence[str] = ('test', 'val')
) -> Callable[[BaseModel], dict[str, float]]:
    """Read the test data, or the validation data, for as many models as are to be measured on it.

    Args:
        cfg: With ``test_dataloader`` and ``test_evaluator``, or those of ``val``.
        parts: Which of the two is looked for first.

    Returns:
        A function that puts a model of mmengine, on the device where it is to run, into eval mode
        and gives its metrics by name; none if the config has no evaluator.
    """
    for part in parts:
        dataloader, evaluator = cfg.get(f'{part}_dataloader'), cfg.get(f'{part}_evaluator')
        if dataloader and evaluator:
            break
    else:
        return lambda model: {}
    with enter_scope(cfg), data_named(cfg):
        loader = Runner.build_dataloader(deepcopy(dataloader))
        config = deepcopy(evaluator)
        is_whole = isinstance(config, dict) and 'metrics' in config
        judge = (
            EVALUATOR.build(dict({'type': Evaluator}, **config)) if is_whole else Evaluator(config)
        )
    judge.dataset_meta = getattr(loader.dataset, 'metainfo', None)

    @torch.no_grad()
    def measure(model: BaseModel) -> dict[str, float]:
        model.eval()
        for batch in loader:
            judge.process(data_samples=model.test_step(batch), data_batch=batch)
        found = judge.evaluate(len(loader.dataset))
        return {name: float(value) for name, value in found.items()}

    return measure


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

    def num_different(self, other: Predictions) -> int:
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
