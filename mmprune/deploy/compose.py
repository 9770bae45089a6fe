"""Channel configs of several rounds of pruning become one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.deploy.channel_cfg import as_channel_cfg, marked
from mmprune.deploy.entries import (
    FORMAT_KEY,
    SIDES,
    ChannelCfg,
    ChannelCfgError,
    entry_mask,
    mask_entry,
    tensor_entry,
    tensor_mask,
)

ChannelCfgLike = Mapping[str, Any] | str | Path


def compose(first: ChannelCfgLike, second: ChannelCfgLike) -> dict[str, Any]:
    """The channel config from a network to what two rounds of pruning make of it.

    Args:
        first: From the full network to a smaller one: a dict or file.
        second: From that one to one that is smaller still.

    Returns:
        A channel config for the full network.

    Raises:
        ChannelCfgError: One is broken or no channel config of mmprune's or MMRazor 0.x, or the
            second was made for another network than the first leaves.
    """
    one, two = as_channel_cfg(first), as_channel_cfg(second)
    for cfg in (one, two):
        if cfg.is_unit_file:
            raise ChannelCfgError(
                f'{cfg.source}: is a unit file of MMRazor 1.x, which does not list all layers: '
                'load it with a prepared pruner, and export the subnet'
            )
        if cfg.sampled:
            raise cfg.error(cfg.sampled[0], 'samples its shortcut, which cannot be composed')
    names = dict.fromkeys((*one.layers(), *two.layers()))
    entries = {name: _entry(one, two, name) for name in names}
    return marked(entries, _model_layers(one, two))


def _model_layers(one: ChannelCfg, two: ChannelCfg) -> int:
    """How many layers the network has; files of MMRazor list all of them."""
    sizes = [
        cfg[FORMAT_KEY].get('model_layers', len(cfg.layers())) if cfg.is_marked else len(cfg)
        for cfg in (one, two)
    ]
    if sizes[0] != sizes[1]:
        raise ChannelCfgError(
            f'{two.source}: was made for a model with {sizes[1]} convolutions, linear layers and '
            f'norms, {one.source} for one with {sizes[0]}: they are no two rounds of one network'
        )
    return int(sizes[0])


def _entry(one: ChannelCfg, two: ChannelCfg, name: str) -> dict[str, Any]:
    ours, theirs = one.layers().get(name, {}), two.layers().get(name, {})
    entry: dict[str, Any] = {}
    for side in SIDES:
        masks = entry_mask(ours, side), entry_mask(theirs, side)
        if all(mask is None for mask in masks):
            continue
        places = [
            None if mask is None else _places(mask, own.get(f'{side}_index'))
            for mask, own in zip(masks, (ours, theirs), strict=True)
        ]
        mask, order = _composed(two, name, f'{side}_channels', masks, places)
        entry.update(mask_entry(mask, side, order))
    tensors = _tensors(one, two, name, ours.get('tensors', {}), theirs.get('tensors', {}))
    attributes = _attributes(two, name, ours.get('attributes', {}), theirs.get('attributes', {}))
    if tensors:
        entry['tensors'] = tensors
    if attributes:
        entry['attributes'] = attributes
    return entry


def _places(mask: BoolArray, index: Any) -> IntArray:
    """Numbers of the kept channels, in the order in which they stand."""
    return np.flatnonzero(mask) if index is None else np.array(index, int)


def _composed(
    cfg: ChannelCfg,
    name: str,
    what: str,
    masks: tuple[BoolArray | None, BoolArray | None],
    places: list[IntArray | None],
) -> tuple[BoolArray, IntArray]:
    """What is kept in the end, and in which order. What a config does not say, it keeps."""
    (first, second), (mine, theirs) = masks, places
    if first is None or mine is None:
        assert second is not None
        assert theirs is not None
        return second, theirs
    if second is None or theirs is None:
        return first, mine
    _check(cfg, name, what, len(mine), len(second))
    order = mine[theirs]
    mask = np.zeros(len(first), bool)
    mask[order] = True
    return mask, order


def _check(cfg: ChannelCfg, name: str, what: str, left: Any, raw: Any) -> None:
    if left != raw:
        raise cfg.error(
            name,
            f'{what}: was made for {raw}, but the first round leaves {left}: these are no two '
            'rounds of one network',
        )


def _attributes(
    cfg: ChannelCfg, name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any]:
    found = {}
    for attribute in dict.fromkeys((*ours, *theirs)):
        first: Any = ours.get(attribute)
        second: Any = theirs.get(attribute)
        if first is not None and second is not None:
            _check(cfg, name, attribute, first['kept'], second['raw'])
            found[attribute] = {'kept': second['kept'], 'raw': first['raw']}
        else:
            found[attribute] = dict(second if first is None else first)
    return found


# -- tensors -----------------------------------------------------------------------------


def _tensors(
    one: ChannelCfg,
    two: ChannelCfg,
    name: str,
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for local in dict.fromkeys((*ours, *theirs)):
        first = {str(key): part for key, part in ours.get(local, {}).items()}
        second = {str(key): part for key, part in theirs.get(local, {}).items()}
        for key in dict.fromkeys((*first, *second)):
            masks: list[BoolArray | None] = [
                None if key not in parts else tensor_mask(parts[key]) for parts in (first, second)
            ]
            what = f'{local} dim {key}'
            if ',' in key:
                mask = _of_blocks(one, two, name, local, key, (first, second), masks)
                found.setdefault(local, {})[key] = tensor_entry(mask)
                continue
            places = [
                None if mask is None else _places(mask, parts[key].get('index'))
                for mask, parts in zip(masks, (first, second), strict=True)
            ]
            mask, order = _composed(two, name, what, (masks[0], masks[1]), places)
            found.setdefault(local, {})[key] = tensor_entry(mask, order)
    return found


def _of_blocks(
    one: ChannelCfg,
    two: ChannelCfg,
    name: str,
    local: str,
    key: str,
    parts: tuple[Mapping[str, Any], Mapping[str, Any]],
    masks: list[BoolArray | None],
) -> BoolArray:
    """Positions of two dims flattened: each block of one has its own kept positions of the other.

    Positions in blocks that the first round has removed are as in a block that is cut alike.
    """
    first, second = masks
    size = len(first) if first is not None else None
    shape = _shape(one, two, name, local, key, parts, size)
    alone = np.ones(shape, bool)
    for axis, dim in enumerate(key.split(',')):
        if dim in parts[0]:
            line = tensor_mask(parts[0][dim])
            alone &= line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    own = np.ones(shape, bool) if first is None else first.reshape(shape)
    kept = own & alone
    result = own.copy()
    if second is not None:
        _check(two, name, f'{local} dim {key}', int(kept.sum()), len(second))
        result[kept] = second
        rows = np.flatnonzero(kept.any(axis=1))
        for row in np.flatnonzero(~kept.any(axis=1)):
            alike = rows[(own[rows] == own[row]).all(axis=1)]
            if len(alike):
                result[row] = result[alike[np.abs(alike - row).argmin()]]
    return result.ravel()


def _shape(
    one: ChannelCfg,
    two: ChannelCfg,
    name: str,
    local: str,
    key: str,
    parts: tuple[Mapping[str, Any], Mapping[str, Any]],
    size: int | None,
) -> tuple[int, ...]:
    """Full sizes of two dims, as far as it matters where one block ends and the next begins."""
    dims = key.split(',')
    known = {dim: parts[0][dim]['raw'] for dim in dims if dim in parts[0]}
    known |= {dim: parts[1][dim]['raw'] for dim in dims if dim in parts[1] and dim not in known}
    if size is None:  # as it was before other dims were cut
        size = int(parts[1][key]['raw'])
        cut = [parts[0][dim] for dim in dims if dim in parts[0]]
        size = size // math.prod(p['kept'] for p in cut) * math.prod(p['raw'] for p in cut)
    if not known:
        return (1, size)
    if len(dims) > 2:
        raise two.error(
            name, f'{local} dim {key}: blocks of {len(dims)} dims cannot be composed: prune the '
            'full network by a subnet of the widths of the last round'
        )  # fmt: skip
    dim = next(iter(known))
    other = size // known[dim]
    return (known[dim], other) if dim == dims[0] else (other, known[dim])
