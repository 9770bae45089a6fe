"""The metrics of a config, for a model that is built already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner

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
