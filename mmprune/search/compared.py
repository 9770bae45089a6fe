"""Which of an evaluator's values a search compares, and which way round."""

import math
import re
from collections.abc import Mapping
from typing import Literal

Rule = Literal['greater', 'less']
# What the metrics of OpenMMLab's code bases are mainly known by, in the last part of a name.
_PREFERRED = ('top1', 'bbox_mAP', 'mAP', 'mIoU', 'AP')
_ERRORS = {'loss', 'error', 'err', 'mae', 'mse', 'rmse', 'epe', 'nme'}


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric to compare where nobody has said one: the best known, else the first.

    Args:
        metrics: What the evaluator gives, not empty: ``{'coco/bbox_mAP': 0.3, ...}``.
    """
    last = {name.rpartition('/')[2]: name for name in reversed(list(metrics))}
    return next((last[each] for each in _PREFERRED if each in last), next(iter(metrics)))


def rule_of(name: str) -> Rule:
    """Whether more of a metric is better: not of losses and errors."""
    return 'less' if set(re.split(r'[^a-z]+', name.lower())) & _ERRORS else 'greater'


def smaller_is_better(value: float | None, rule: Rule) -> float:
    """A value to minimise; infinity where nothing was measured."""
    if value is None or math.isnan(value):
        return math.inf
    return value if rule == 'less' else -value
