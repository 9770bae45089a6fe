"""Random numbers that are the same whenever and wherever they are drawn."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def random_state_kept(devices: Iterable[torch.device | int]) -> Iterator[None]:
    """Put the random states of Python, numpy and torch, also on devices, back at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch inside the block, and put their states back after it.

    What is drawn inside depends on ``seed`` alone, and what is drawn
    afterwards does not notice the block.

    Args:
        seed: Any integer that is not negative.
    """
    with random_state_kept(range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield


def draw_by(*key: int | str, device: torch.device | None = None) -> None:
    """Let what Python, numpy and torch draw from here on depend on ``key`` alone.

    Args:
        key: Any numbers and words.
        device: Where torch draws, besides the CPU.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, 'big') >> 1
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed reads the call stack for devices that nobody uses, ten times as long.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != 'cpu':
        module = getattr(torch, device.type)
        getattr(module, 'manual_seed_all', module.manual_seed)(seed)


def stir(model: nn.Module) -> nn.Module:
    """Draw what a network that was just built leaves at 0, at 1 or at any one number.

    The scales, shifts and statistics of its norms, biases, layer scales, tokens: as built they
    hide faults, since a channel whose norm has no shift stays 0 when it is removed, and a
    layer scale of 1e-6 hides its whole branch. Other weights stay as they were drawn.

    Args:
        model: Is changed; drawn from torch's random state.
    """
    with torch.no_grad():
        for module in model.modules():
            named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, tensor in named:
                if not tensor.is_floating_point() or tensor.numel() < 2:
                    continue
                is_parameter = isinstance(tensor, nn.Parameter)
                if name == 'running_mean' or (is_parameter and 'bias' in name):
                    tensor.normal_(0, 0.1)
                elif name == 'running_var' or (is_parameter and tensor.dim() == 1):
                    tensor.uniform_(0.5, 1.5)
                elif is_parameter and bool((tensor == tensor.flatten()[0]).all()):
                    tensor.normal_(0, 0.1)
    return model
