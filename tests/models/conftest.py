"""A small AutoSlim and batches for it, made anew for each test."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from mmcls.structures import ClsDataSample
from mmengine.registry import init_default_scope

from mmprune.config import load_config
from mmprune.models import AutoSlim
from mmprune.registry import MODELS

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


@pytest.fixture
def build() -> Callable[..., AutoSlim]:
    """Build the model of the tiny config with some of its settings changed."""

    def build(**settings: Any) -> AutoSlim:
        cfg = load_config(CONFIG)
        init_default_scope('mmcls')
        model = {**deepcopy(cfg.model), 'data_preprocessor': cfg.data_preprocessor, **settings}
        algorithm = MODELS.build(model)
        algorithm.init_weights()
        return algorithm

    return build


def make_batch(size: int, seed: int) -> dict[str, Any]:
    """A batch of random images as mmcls's dataloaders give it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        'inputs': torch.randint(0, 256, (size, 1, 8, 8), generator=generator, dtype=torch.uint8),
        'data_samples': [
            ClsDataSample().set_gt_label(int(label))
            for label in torch.randint(0, 10, (size,), generator=generator)
        ],
    }


@pytest.fixture
def batch() -> Callable[..., dict[str, Any]]:
    return make_batch
