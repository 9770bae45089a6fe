"""Take mmprune off a model, and put it back if a new preparation fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from mmprune.execution.instrument import uninstrument
from mmprune.execution.loading import detach_hooks


def release(model: nn.Module) -> None:
    """Take every trace of mmprune off a model: forwards, masks, attributes, hooks."""
    for module in model.modules():
        detach_hooks(module)
        uninstrument(module)


@contextlib.contextmanager
def replaced_preparation(model: nn.Module) -> Iterator[None]:
    """Release a model and let it be prepared anew; on an error it is as it was before."""
    before: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (live, dict(live))
        for module in model.modules()
        for live in (
            module.__dict__,
            module._buffers,
            module._load_state_dict_pre_hooks,
            module._load_state_dict_post_hooks,
        )
    ]
    try:
        release(model)
        yield
    except BaseException:
        for live, entries in before:
            live.clear()
            live.update(entries)
        raise
