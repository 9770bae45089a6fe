"""Random numbers that are the same whenever and wherever they are drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch inside the block, and put their states back after it.

    What is drawn inside depends on ``seed`` alone, and what is drawn
    afterwards does not notice the block.

    Args:
        seed: Any integer that is not negative.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
