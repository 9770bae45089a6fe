"""What a user hands to a pruner, read or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import as_scores
from mmprune.errors import InputError
from mmprune.registry import IMPORTANCE, table
from mmprune.schema import Whole, checked
from mmprune.trace.demo_images import image_shape


def built_importance(importance: Any) -> Any:
    """An importance from its config or its name, or the one that is given; None stays None."""
    if isinstance(importance, str):
        # 'L1' is L1Importance, also where somebody else's is called plainly 'L1'.
        known = importance in table(IMPORTANCE) or '.' in importance
        importance = dict(type=importance if known else f'{importance}Importance')
    if isinstance(importance, Mapping):
        try:
            return IMPORTANCE.build(importance)
        except (KeyError, TypeError) as error:
            raise InputError(f'importance={importance} cannot be built: {error}') from error
    if importance is None or callable(getattr(importance, 'scores', None)):
        return importance
    raise InputError(
        f"importance must be a name such as 'L1', a config such as dict(type='L1Importance'), an "
        f'object with a method scores, or None; not {importance!r}'
    )


def checked_scores(group: ChannelGroup, scores: Any) -> np.ndarray:
    """What an importance has given for a group, as one finite number per channel, (C,).

    Raises:
        InputError: It is something else; names the group.
    """
    try:
        return as_scores(scores, group.num_channels)
    except InputError as error:
        raise InputError(f"group '{group.space_id}': {error}") from error


def checked_counts(counts: Any, groups: Mapping[str, ChannelGroup]) -> dict[str, int]:
    """How many channels each group is to keep.

    Raises:
        InputError: A group has none, or what is no whole number.
    """
    found: dict[str, int] = checked(dict[str, Whole], counts, 'counts')
    missing = [space_id for space_id in groups if space_id not in found]
    if missing:
        raise InputError(f"counts: '{missing[0]}' is missing ({len(missing)} such)")
    return found


def default_input(model: nn.Module) -> torch.Tensor:
    """An image of noise, always the same one, in the model's type and on its device."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    shape = image_shape(None, 'demo_input')
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)


def refuse_subnet(channel_cfg: Any) -> None:
    """Refuse masks where a channel config is wanted.

    Raises:
        InputError: ``channel_cfg`` is a subnet, ``{space_id: mask}``.
    """
    values = channel_cfg.values() if isinstance(channel_cfg, Mapping) else ()
    if any(isinstance(value, torch.Tensor) for value in values):
        raise InputError(
            f'deploy_subnet got a subnet, masks of {len(channel_cfg)} groups, where a channel '
            'config is wanted: call set_subnet(subnet) first, then deploy_subnet(network)'
        )
