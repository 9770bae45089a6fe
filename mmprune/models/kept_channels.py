"""Which channels of what a network's modules put out a smaller one has too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmprune.channels import Labelling, Wishes, propagate
from mmprune.channels.arrangement import places_of, row_key
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, Value, axes_of, kept
from mmprune.deploy import cuts_of
from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.deploy.entries import SIDES, entry_mask, mask_entry
from mmprune.layers import layers_of, stored_numbers, torchs_attention
from mmprune.trace import Road, trace
from mmprune.trace.roads import DemoInput, as_road

Cuts = Mapping[int, Tensor]
"""Dim of a tensor -> which of its positions the smaller network has, in its order."""
Kept = Mapping[str, list[Cuts | None]]
"""Name of a module -> the cuts of every tensor that it puts out in one pass, call after call.

None where the small network's tensor is no selection along dims.
"""


def kept_channels(labelling: Labelling, alive: BoolArray, modules: Iterable[str]) -> Kept:
    """Which channels of some modules' outputs a subnet has.

    Args:
        labelling: Of the full network.
        alive: The labels that are kept, (num_labels,).
        modules: Their names.
    """
    places = places_of(labelling.arrangements, alive)
    dealt = np.concatenate([np.zeros(0, np.int64), *(a.labels for a in labelling.arrangements)])
    found: dict[str, list[Cuts | None]] = {name: [] for name in modules}
    for name, values in labelling.outputs:
        if name in found:
            found[name] += [_cuts(value, alive, places, dealt) for value in values]
    return found


def _cuts(
    value: Value, alive: BoolArray, places: Mapping[bytes, np.ndarray], dealt: np.ndarray
) -> Cuts | None:
    cuts: dict[int, Tensor] = {}
    for factor in value.factors:
        mask = kept(alive, factor)
        if mask.all():
            continue
        labels, axes = factor.ravel(), axes_of(factor)
        order = places.get(row_key(labels))
        if len(axes) != 1 or (order is None and np.isin(labels, dealt).any()):
            return None
        cuts[axes[0]] = torch.as_tensor(np.flatnonzero(mask) if order is None else order)
    return cuts


def kept_by_config(
    network: nn.Module,
    demo_input: DemoInput | Road,
    channel_cfg: Mapping[str, Any] | str | Path,
    modules: Iterable[str],
) -> Kept:
    """Which channels of some modules' outputs the network of a channel config has.

    Args:
        network: The full network; it is traced in eval mode, and left as it was.
        demo_input: What it is run on, as for a pruner, or the road to take.
        channel_cfg: What was kept of it: a file, or its contents.
        modules: Their names.

    Raises:
        InputError: The channel config was made for another network.
    """
    cfg = as_channel_cfg(channel_cfg)
    cuts_of(network, cfg)  # which refuses a config of another network
    numbers = stored_numbers(network)
    wishes = Wishes(numbers=numbers, torchs_heads=torchs_attention(network))
    labelling = propagate(trace(network, as_road(demo_input), stored=numbers), wishes)
    layers = layers_of(network, labelling)
    alive = np.ones(labelling.num_labels, bool)
    said: list[tuple[str, str, IntArray]] = []
    for name, entry in cfg.layers().items():
        if name not in layers:
            continue
        for side, labels in zip(SIDES, (layers[name].inputs, layers[name].outputs), strict=True):
            mask = entry_mask(entry, side)
            if labels is not None and mask is not None:
                alive[labels[labels >= 0]] = mask[labels >= 0]
                said.append((name, side, labels))
    places = places_of(labelling.arrangements, alive)
    for name, side, labels in said:
        again = mask_entry(kept(alive, labels), side, places.get(row_key(labels)))
        if any(cfg[name].get(key) != value for key, value in again.items()):
            raise cfg.error(name, f'keeps other {side}puts than the layers beside it')
    return kept_channels(labelling, alive, modules)
