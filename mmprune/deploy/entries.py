"""The entries of a channel config: one layer's kept channels, as numbers and as masks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError

FORMAT_KEY = '__format__'
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

    @property
    def sampled(self) -> list[str]:
        """Blocks whose shortcut is sampled to fit, see ``deploy.shortcuts``."""
        entries = self.layers().items()
        return [n for n, entry in entries if isinstance(entry, Mapping) and 'shortcut' in entry]

    def error(self, layer: object, problem: str) -> ChannelCfgError:
        """An error that names the file and the layer."""
        return ChannelCfgError(f"{self.source}: layer '{layer}': {problem}")


def shown(value: Any) -> str:
    """A value for a message, not more of it than a line holds."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _mapping(cfg: ChannelCfg, name: str, what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise cfg.error(name, f'{what}expected a mapping, found {shown(value)}')
    return value


def check_entry(cfg: ChannelCfg, name: str, entry: Any) -> None:
    """Check one layer's entry: the keys, and every number that can be checked without a model."""
    _mapping(cfg, name, '', entry)
    channels = {f'{raw}{side}_channels' for raw in ('', 'raw_') for side in SIDES}
    unknown = set(entry) - channels - {'in_index', 'out_index', 'tensors', 'attributes', 'shortcut'}
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
    if 'shortcut' in entry:
        shortcut_index(cfg, name, entry)
    for attribute, part in _mapping(cfg, name, 'attributes: ', entry.get('attributes', {})).items():
        _check_numbers(cfg, name, attribute, _mapping(cfg, name, f'{attribute}: ', part))


def shortcut_index(cfg: ChannelCfg, name: str, entry: Mapping[str, Any]) -> list[int]:
    """Which channel of a block's shortcut each channel of its sum reads."""
    part = _mapping(cfg, name, 'shortcut: ', entry['shortcut'])
    index, raw = _whole_numbers(part.get('index')), _whole_numbers(part.get('raw'))
    if len(raw) != 1 or not index or any(not 0 <= i < raw[0] for i in index):
        raise cfg.error(
            name, f'shortcut: expected an index of channels below raw, found {shown(dict(part))}'
        )  # fmt: skip
    return index


def _check_numbers(cfg: ChannelCfg, name: str, attribute: str, part: Mapping[str, Any]) -> None:
    """Check a stored number, or a list of them: each between 1 and its full size."""
    kept, raw = _whole_numbers(part.get('kept')), _whole_numbers(part.get('raw'))
    pairs = list(zip(kept, raw, strict=False))
    if not pairs or len(kept) != len(raw) or any(not min(1, r) <= k <= r for k, r in pairs):
        raise cfg.error(name, f'{attribute}: expected kept and raw sizes, found {shown(part)}')


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
            raise cfg.error(name, f'{what}: {shown(value)} is no whole number')
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
        found = len(index) if isinstance(index, list | tuple) else shown(index)
        raise cfg.error(name, f'{what}: keeps {kept} channels, but its index lists {found}')
    wrong = _no_channels(index, raw)
    if wrong:
        raise cfg.error(
            name, f'{what}: its index has {shown(wrong[0])}, which is no channel from 0 to '
            f'{raw - 1}'
        )  # fmt: skip
    mask[index] = True
    if np.count_nonzero(mask) != kept:
        raise cfg.error(
            name, f'{what}: keeps {kept} channels, but its index names only {mask.sum()} different '
            'ones'
        )  # fmt: skip
    return mask


def _no_channels(index: Sequence[Any], raw: int) -> list[Any]:
    """What in an index is no number of a channel from 0 to ``raw`` - 1."""
    if set(map(type, index)) == {int} and min(index) >= 0 and max(index) < raw:
        return []
    return [i for i in index if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < raw]


def turned_index(entry: Mapping[str, Any], key: str = 'index') -> np.ndarray | None:
    """The index of a checked entry, if its channels stand in another order than in full."""
    index = np.array(entry.get(key) or (), int)
    return index if (index[1:] < index[:-1]).any() else None


def mask_entry(mask: BoolArray, side: str, places: np.ndarray | None = None) -> dict[str, Any]:
    """The part of an entry that says which of the ``in`` or ``out`` channels are kept.

    Args:
        mask: Kept channels, (raw,) bool.
        side: ``'in'`` or ``'out'``.
        places: Their numbers in the order in which they are to stand; ascending if None.
    """
    kept = int(mask.sum())
    entry: dict[str, Any] = {f'{side}_channels': kept, f'raw_{side}_channels': len(mask)}
    places = np.flatnonzero(mask) if places is None else places
    if (places != np.arange(kept)).any():
        entry[f'{side}_index'] = places.tolist()
    return entry


def tensor_entry(mask: BoolArray, places: np.ndarray | None = None) -> dict[str, Any]:
    """The kept positions of a tensor's dims; ``mask_entry`` says what ``places`` are."""
    kept = int(mask.sum())
    entry: dict[str, Any] = {'kept': kept, 'raw': mask.size}
    places = np.flatnonzero(mask) if places is None else places
    if (places != np.arange(kept)).any():
        entry['index'] = places.tolist()
    return entry
