"""Checkpoints in which what a hook has saved is something else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.utils._pytree import tree_map

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import train
from mmprune.errors import InputError


def assert_spoiled_states_are_refused(
    make: Callable[[], Config], checkpoint: Path, key: str
) -> None:
    """Resume with a hook's part of another type, and with tensors of other shapes and types."""
    content, path = read_checkpoint(checkpoint), checkpoint.with_name('spoiled.pth')

    def spoiled(change: Callable[[torch.Tensor], torch.Tensor]) -> object:
        return tree_map(lambda v: change(v) if isinstance(v, torch.Tensor) else v, content[key])

    for other in (3.5, spoiled(lambda value: value.reshape(-1)[:1]), spoiled(torch.Tensor.long)):
        torch.save({**content, key: other}, path)
        with pytest.raises(InputError, match=rf'spoiled\.pth: {key}|subnet: '):
            train(make(), checkpoint.parent / 'spoiled', resume=path)
