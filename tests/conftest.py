"""What all tests share: one thread, fixed seeds, and no state of mmengine left by another test."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# Two test processes share two cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (what mmengine and mmcls draw from)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_mmengine() -> Iterator[None]:
    """Forget the runners, scopes and loggers of the test."""
    yield
    for manager in (MessageHub, MMLogger, DefaultScope, Visualizer):
        for instance in manager._instance_dict.values():
            for handler in getattr(instance, 'handlers', []):
                handler.close()
        manager._instance_dict.clear()
