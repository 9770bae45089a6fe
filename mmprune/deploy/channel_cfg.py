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

The key ``__format__``, which comes first, names the format and counts the layers that
follow; ``model_layers`` in it is the number of convolutions, linear layers and norms of the
model, by which a config for another model is told. A file ends with the count of its layers
once more, under ``__end__``: YAML that was cut off is still YAML. Files of MMRazor 0.x have
neither key; they are complete if they list every layer of the model.
"""

from __future__ import annotations

import json
import re
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
END_KEY = '__end__'
MOST_CHANNELS = 2**31
"""More than any layer has: a number above it would only fill the memory."""
SIDES = ('in', 'out')
DIMS = re.compile(r'\d+(,\d+)*')


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
    def is_marked(self) -> bool:
        """Whether this is mmprune's own format, which says itself whether it is complete."""
        return FORMAT_KEY in self

    @property
    def is_unit_file(self) -> bool:
        """Whether this is a unit file of MMRazor 1.x."""
        return 'channel_unit_cfg' in self

    def error(self, layer: object, problem: str) -> ChannelCfgError:
        """An error that names the file and the layer."""
        return ChannelCfgError(f"{self.source}: layer '{layer}': {problem}")


def as_channel_cfg(cfg: Mapping[str, Any] | str | Path) -> ChannelCfg:
    """A channel config from a dict, or from a file.

    Raises:
        ChannelCfgError: It is something else, or broken.
    """
    if isinstance(cfg, ChannelCfg):
        return cfg
    if isinstance(cfg, str | Path):
        return load_channel_cfg(cfg)
    if not isinstance(cfg, Mapping):
        raise ChannelCfgError(
            f'expected a channel config, as a mapping or the name of a file, not {_shown(cfg)}'
        )
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
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        where = ' '.join(str(error).split())
        raise ChannelCfgError(f'{path}: broken or cut off: {where}') from error
    if not isinstance(entries, dict):
        kind = 'empty' if entries is None else f'a {type(entries).__name__}'
        raise ChannelCfgError(f'{path}: is no channel config: {kind} instead of a mapping')
    cfg = ChannelCfg(entries, str(path))
    if cfg.is_marked or END_KEY in cfg:
        end = cfg.pop(END_KEY, None)
        if not cfg.is_marked:
            raise ChannelCfgError(f'{path}: its beginning is missing, the key {FORMAT_KEY}')
        if end is None or end != len(cfg.layers()):
            raise ChannelCfgError(
                f'{path}: cut off after {len(cfg.layers())} of {_declared(cfg)} layers: its last '
                f'line, "{END_KEY}: {_declared(cfg)}", is {"missing" if end is None else end}'
            )
    return _checked(cfg)


def save_channel_cfg(cfg: Mapping[str, Any], path: str | Path) -> None:
    """Write a channel config as JSON if the name ends so, else as YAML; all or nothing.

    Raises:
        ChannelCfgError: The config is broken; nothing is written then.
    """
    path, checked = Path(path), as_channel_cfg(cfg)
    entries = dict(checked)
    if checked.is_marked:
        entries[END_KEY] = len(checked.layers())
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        if path.suffix == '.json':
            json.dump(entries, file, indent=1)
        else:
            yaml.safe_dump(entries, file, sort_keys=False, default_flow_style=None, width=100)


def _shown(value: Any) -> str:
    """A value for a message, not more of it than a line holds."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _declared(cfg: ChannelCfg) -> Any:
    """How many layers the format line promises, None if it does not."""
    line = cfg.get(FORMAT_KEY, {})
    return line.get('layers') if isinstance(line, Mapping) else None


def _checked(cfg: ChannelCfg) -> ChannelCfg:
    """Check everything that can be checked without a model."""
    if cfg.is_unit_file:
        return cfg
    version = cfg.get(FORMAT_KEY, FORMAT)
    if not isinstance(version, Mapping) or version.get('name') != FORMAT['name']:
        raise ChannelCfgError(f'{cfg.source}: {FORMAT_KEY} is {_shown(version)}, not {FORMAT}')
    if version.get('version') != FORMAT['version']:
        raise ChannelCfgError(
            f'{cfg.source}: has format version {version.get("version")}, this mmprune reads '
            f'version {FORMAT["version"]}; update mmprune'
        )
    if not cfg.layers():
        raise ChannelCfgError(f'{cfg.source}: lists no layer')
    if cfg.is_marked and _declared(cfg) != len(cfg.layers()):
        raise ChannelCfgError(
            f'{cfg.source}: cut off: it has {len(cfg.layers())} of {_declared(cfg)} layers'
        )
    for name, entry in cfg.layers().items():
        if not isinstance(name, str):
            raise cfg.error(name, 'a layer is named by text: put its name in quotes')
        _check_entry(cfg, name, entry)
    return cfg


def _mapping(cfg: ChannelCfg, name: str, what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise cfg.error(name, f'{what}expected a mapping, found {_shown(value)}')
    return value


def _check_entry(cfg: ChannelCfg, name: str, entry: Any) -> None:
    """Check one layer's entry: the keys, and every number that can be checked without a model."""
    _mapping(cfg, name, '', entry)
    channels = {f'{raw}{side}_channels' for raw in ('', 'raw_') for side in SIDES}
    unknown = set(entry) - channels - {'in_index', 'out_index', 'tensors', 'attributes'}
    if unknown:
        raise cfg.error(name, f'unknown keys {sorted(map(str, unknown))}')
    if not entry:
        raise cfg.error(name, 'says nothing')
    for side in SIDES:
        given = [key for key in (f'{side}_channels', f'raw_{side}_channels') if key in entry]
        if len(given) == 1 or (f'{side}_index' in entry and not given):
            raise cfg.error(name, f'{side}_channels and raw_{side}_channels go together')
        if given:
            entry_mask(cfg, name, entry, side)
    for tensor, dims in _mapping(cfg, name, 'tensors: ', entry.get('tensors', {})).items():
        for key, part in _mapping(cfg, name, f'{tensor}: ', dims).items():
            if not DIMS.fullmatch(str(key)):
                raise cfg.error(name, f"{tensor}: {key!r} names no dims, as '0' or '0,1' do")
            _mapping(cfg, name, f'{tensor} dim {key}: ', part)
            tensor_mask(cfg, name, tensor, str(key), part)
    for attribute, part in _mapping(cfg, name, 'attributes: ', entry.get('attributes', {})).items():
        _check_numbers(cfg, name, attribute, _mapping(cfg, name, f'{attribute}: ', part))


def _check_numbers(cfg: ChannelCfg, name: str, attribute: str, part: Mapping[str, Any]) -> None:
    """Check a stored number, or a list of them: each between 1 and its full size."""
    kept, raw = _whole_numbers(part.get('kept')), _whole_numbers(part.get('raw'))
    pairs = list(zip(kept, raw, strict=False))
    if not pairs or len(kept) != len(raw) or any(not min(1, r) <= k <= r for k, r in pairs):
        raise cfg.error(name, f'{attribute}: expected kept and raw sizes, found {_shown(part)}')


def _whole_numbers(value: Any) -> list[int]:
    """One whole number or several, as a list; an empty one if they are something else."""
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(v, int) and not isinstance(v, bool) for v in values) else []


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
    what = f'{tensor} dim {key}'
    return _mask(cfg, name, what, part.get('kept'), part.get('raw'), part.get('index'))


def _mask(cfg: ChannelCfg, name: str, what: str, kept: Any, raw: Any, index: Any) -> BoolArray:
    for value in (kept, raw):
        if not isinstance(value, int) or isinstance(value, bool):
            raise cfg.error(name, f'{what}: {_shown(value)} is no whole number')
    if kept < 1:
        raise cfg.error(name, f'{what}: keeps {kept} of {raw} channels; at least 1 must stay')
    if kept > raw:
        raise cfg.error(name, f'{what}: keeps {kept} channels, but there are only {raw}')
    if raw > MOST_CHANNELS:
        raise cfg.error(name, f'{what}: {raw} channels are more than any layer has')
    mask = np.zeros(raw, bool)
    if index is None:
        mask[:kept] = True
        return mask
    if not isinstance(index, list | tuple) or len(index) != kept:
        found = len(index) if isinstance(index, list | tuple) else _shown(index)
        raise cfg.error(name, f'{what}: keeps {kept} channels, but its index lists {found}')
    wrong = [i for i in index if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < raw]
    if wrong:
        raise cfg.error(
            name, f'{what}: its index has {_shown(wrong[0])}, which is no channel from 0 to '
            f'{raw - 1}'
        )  # fmt: skip
    mask[index] = True
    if mask.sum() != kept:
        raise cfg.error(
            name, f'{what}: keeps {kept} channels, but its index names only {mask.sum()} different '
            'ones'
        )  # fmt: skip
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
