"""The channel config: a subnet written per layer, complete enough to deploy without a trace.

It is a mapping from layer names to entries, as MMRazor 0.x writes it:

    backbone.conv1:
      in_channels: 3
      out_channels: 2
      raw_in_channels: 3
      raw_out_channels: 4
      out_index: [0, 3]        # only where the kept channels are not the first ones

Norms have only the ``out`` half. A parameter that does not follow from its layer's
inputs and outputs (a layer scale, a position embedding) is listed under ``tensors``, per
dims: ``tensors: {gamma: {'0': {kept: 2, raw: 4, index: [0, 3]}}}``; a dims key with a comma
(``'0,1'``) means positions of those dims flattened. Numbers that a module stores and that
are sizes of channels (``num_heads``) are under ``attributes: {num_heads: {kept: 6, raw: 12}}``.
The key ``__format__`` names the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError
from mmprune.fileio import atomic_path

FORMAT_KEY = '__format__'
FORMAT = {'name': 'mmprune channel config', 'version': 1}


class ChannelCfgError(InputError):
    """A channel config that is broken, or that does not fit a model."""


class ChannelCfg(dict):
    """A channel config that knows the file it came from, for messages."""

    def __init__(self, entries: Mapping[str, Any], source: str = 'the channel config') -> None:
        super().__init__(entries)
        self.source = source

    def layers(self) -> dict[str, dict[str, Any]]:
        """The entries of layers, the format's own key left out."""
        return {name: entry for name, entry in self.items() if name != FORMAT_KEY}

    @property
    def is_unit_file(self) -> bool:
        """Whether this is a unit file of MMRazor 1.x."""
        return 'channel_unit_cfg' in self

    def error(self, layer: str, problem: str) -> ChannelCfgError:
        """An error that names the file and the layer."""
        return ChannelCfgError(f"{self.source}: layer '{layer}': {problem}")


def as_channel_cfg(cfg: Mapping[str, Any] | str | Path) -> ChannelCfg:
    """A channel config from a dict, or from a file."""
    if isinstance(cfg, ChannelCfg):
        return cfg
    if isinstance(cfg, str | Path):
        return load_channel_cfg(cfg)
    return _checked(ChannelCfg(cfg))


def load_channel_cfg(path: str | Path) -> ChannelCfg:
    """Read a channel config (YAML or JSON) or an MMRazor 1.x unit file.

    Raises:
        ChannelCfgError: The file is missing, broken, cut off, or something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ChannelCfgError(f'{path}: cannot be read as a channel config: {error}') from error
    try:
        entries = json.loads(text) if path.suffix == '.json' else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        where = ' '.join(str(error).split())
        raise ChannelCfgError(f'{path}: broken or cut off: {where}') from error
    if not isinstance(entries, dict):
        kind = 'empty' if entries is None else f'a {type(entries).__name__}'
        raise ChannelCfgError(f'{path}: is no channel config: {kind} instead of a mapping')
    return _checked(ChannelCfg(entries, str(path)))


def save_channel_cfg(cfg: Mapping[str, Any], path: str | Path) -> None:
    """Write a channel config as JSON if the name ends so, else as YAML; all or nothing."""
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        if path.suffix == '.json':
            json.dump(dict(cfg), file, indent=1)
        else:
            yaml.safe_dump(dict(cfg), file, sort_keys=False, default_flow_style=None, width=100)


def _checked(cfg: ChannelCfg) -> ChannelCfg:
    """Check everything that can be checked without a model."""
    if cfg.is_unit_file:
        return cfg
    version = cfg.get(FORMAT_KEY, FORMAT)
    if not isinstance(version, Mapping) or version.get('name') != FORMAT['name']:
        raise ChannelCfgError(f'{cfg.source}: {FORMAT_KEY} is {version}, not {FORMAT}')
    if version.get('version') != FORMAT['version']:
        raise ChannelCfgError(
            f'{cfg.source}: has format version {version.get("version")}, this mmprune reads '
            f'version {FORMAT["version"]}; update mmprune'
        )
    if not cfg.layers():
        raise ChannelCfgError(f'{cfg.source}: lists no layer')
    declared = cfg.get(FORMAT_KEY, {}).get('layers')
    if declared is not None and declared != len(cfg.layers()):
        raise ChannelCfgError(
            f'{cfg.source}: cut off: it has {len(cfg.layers())} of {declared} layers'
        )
    for name, entry in cfg.layers().items():
        _check_entry(cfg, str(name), entry)
    return cfg


def _check_entry(cfg: ChannelCfg, name: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise cfg.error(name, f'expected a mapping, found {entry!r}')
    known = {f'{raw}{side}_channels' for raw in ('', 'raw_') for side in ('in', 'out')}
    unknown = set(entry) - known - {'in_index', 'out_index', 'tensors', 'attributes'}
    if unknown:
        raise cfg.error(name, f'unknown keys {sorted(map(str, unknown))}')
    for side in ('in', 'out'):
        if (f'{side}_channels' in entry) != (f'raw_{side}_channels' in entry):
            raise cfg.error(name, f'{side}_channels and raw_{side}_channels go together')
        if f'{side}_channels' in entry:
            entry_mask(cfg, name, entry, side)
    for tensor, dims in entry.get('tensors', {}).items():
        for key, part in dims.items():
            _mask(cfg, name, f'{tensor} dim {key}', part['kept'], part['raw'], part.get('index'))


def entry_mask(cfg: ChannelCfg, name: str, entry: Mapping[str, Any], side: str) -> BoolArray | None:
    """Kept input or output channels of an entry, (raw,) bool; None if it does not say.

    ``side`` is ``'in'`` or ``'out'``.
    """
    if f'{side}_channels' not in entry:
        return None
    kept, raw = entry[f'{side}_channels'], entry[f'raw_{side}_channels']
    return _mask(cfg, name, f'{side}_channels', kept, raw, entry.get(f'{side}_index'))


def tensor_mask(
    cfg: ChannelCfg, name: str, tensor: str, key: str, part: Mapping[str, Any]
) -> BoolArray:
    """Kept positions of an entry's tensor along the dims of ``key``, flattened."""
    return _mask(cfg, name, f'{tensor} dim {key}', part['kept'], part['raw'], part.get('index'))


def _mask(cfg: ChannelCfg, name: str, what: str, kept: Any, raw: Any, index: Any) -> BoolArray:
    for value in (kept, raw):
        if not isinstance(value, int) or isinstance(value, bool):
            raise cfg.error(name, f'{what}: {value!r} is no whole number')
    if kept < 1:
        raise cfg.error(name, f'{what}: keeps {kept} of {raw} channels; at least 1 must stay')
    if kept > raw:
        raise cfg.error(name, f'{what}: keeps {kept} channels, but there are only {raw}')
    mask = np.zeros(raw, bool)
    if index is None:
        mask[:kept] = True
        return mask
    listed = np.asarray(index)
    if listed.ndim != 1 or listed.dtype.kind != 'i' or len(listed) != kept:
        raise cfg.error(name, f'{what}: keeps {kept} channels, but its index lists {len(index)}')
    if listed.min() < 0 or listed.max() >= raw or len(np.unique(listed)) != kept:
        raise cfg.error(name, f'{what}: its index must be {kept} different numbers below {raw}')
    mask[listed] = True
    return mask


def mask_entry(mask: BoolArray, side: str) -> dict[str, Any]:
    """The part of an entry that says which of the ``in`` or ``out`` channels are kept."""
    kept = int(mask.sum())
    entry: dict[str, Any] = {f'{side}_channels': kept, f'raw_{side}_channels': len(mask)}
    if not mask[:kept].all():
        entry[f'{side}_index'] = np.flatnonzero(mask).tolist()
    return entry


def tensor_entry(mask: BoolArray) -> dict[str, Any]:
    """The kept positions of a tensor's dims."""
    kept = int(mask.sum())
    flat = mask.ravel()
    entry: dict[str, Any] = {'kept': kept, 'raw': flat.size}
    if not flat[:kept].all():
        entry['index'] = np.flatnonzero(flat).tolist()
    return entry
