"""The entries of a channel config: one layer's kept channels, as numbers and as masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError
from mmprune.schema import Count, Whole, checked

FORMAT_KEY = '__format__'
MOST_CHANNELS = 2**24
"""More than any layer has: a number above it would only fill the memory."""
SIDES = ('in', 'out')
ABSENT: Any = None
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


@dataclass(frozen=True)
class _Kept:
    """Which of ``raw`` channels are kept: the first, or those of ``index``."""

    kept: int
    raw: int
    index: list[int] = ABSENT

    def __post_init__(self) -> None:
        kept, raw, index = self.kept, self.raw, self.index
        if kept < 1:
            raise ValueError(f'keeps {kept} of {raw} channels; at least 1 must stay')
        if kept > raw:
            raise ValueError(f'keeps {kept} channels, but there are only {raw}')
        if raw > MOST_CHANNELS:
            raise ValueError(f'{raw} channels are more than any layer has')
        if index is None:
            return
        if len(index) != kept:
            raise ValueError(f'keeps {kept} channels, but its index lists {len(index)}')
        if min(index) < 0 or max(index) >= raw:
            wrong = next(i for i in index if not 0 <= i < raw)
            raise ValueError(f'its index has {wrong}, which is no channel from 0 to {raw - 1}')
        if len(set(index)) != kept:
            raise ValueError(
                f'keeps {kept} channels, but its index names only {len(set(index))} different ones'
            )


@dataclass(frozen=True)
class _Sizes:
    """A stored number, or a list of them, and its full size."""

    kept: int | list[int]
    raw: int | list[int]

    def __post_init__(self) -> None:
        kept, raw = (v if isinstance(v, list) else [v] for v in (self.kept, self.raw))
        fits = len(kept) == len(raw) and all(map(lambda k, r: min(1, r) <= k <= r, kept, raw))
        if not kept or not fits or type(self.kept) is not type(self.raw):
            raise ValueError(f'expected kept and raw sizes, found {self.kept} and {self.raw}')


@dataclass(frozen=True)
class _Shortcut:
    """Which channel of a block's shortcut each channel of its sum reads."""

    raw: Count
    index: list[Whole]

    def __post_init__(self) -> None:
        if not self.index or max(self.index) >= self.raw:
            raise ValueError(f'expected an index of channels below raw, {self.raw}')


@dataclass(frozen=True)
class _Entry:
    """One layer's entry; None stands for what it does not say, and is no value."""

    in_channels: int = ABSENT
    raw_in_channels: int = ABSENT
    in_index: list[int] = ABSENT
    out_channels: int = ABSENT
    raw_out_channels: int = ABSENT
    out_index: list[int] = ABSENT
    tensors: dict[str, dict[str | int, _Kept]] = ABSENT
    attributes: dict[str, _Sizes] = ABSENT
    shortcut: _Shortcut = ABSENT

    def __post_init__(self) -> None:
        if all(value is None for value in vars(self).values()):
            raise ValueError('says nothing')
        for side in SIDES:
            kept, raw = getattr(self, f'{side}_channels'), getattr(self, f'raw_{side}_channels')
            index = getattr(self, f'{side}_index')
            if (kept is None) != (raw is None) or (index is not None and kept is None):
                raise ValueError(f'{side}_channels and raw_{side}_channels go together')
            if kept is not None:
                try:
                    _Kept(kept, raw, index)
                except ValueError as error:
                    raise ValueError(f'{side}_channels: {error}') from None
        for tensor, dims in (self.tensors or {}).items():
            wrong = [key for key in dims if not DIMS.fullmatch(str(key))]
            if wrong:
                raise ValueError(f"{tensor}: {wrong[0]!r} names no dims, as '0' or '0,1' do")


def check_entry(cfg: ChannelCfg, name: str, entry: Any) -> None:
    """Check one layer's entry: the keys, and every number that can be checked without a model."""
    checked(_Entry, entry, f"{cfg.source}: layer '{name}'", ChannelCfgError)


def entry_mask(entry: Mapping[str, Any], side: str) -> BoolArray | None:
    """Kept input or output channels of a checked entry, (raw,) bool; None if it does not say.

    ``side`` is ``'in'`` or ``'out'``.
    """
    if f'{side}_channels' not in entry:
        return None
    kept, raw = entry[f'{side}_channels'], entry[f'raw_{side}_channels']
    return tensor_mask({'kept': kept, 'raw': raw, 'index': entry.get(f'{side}_index')})


def tensor_mask(part: Mapping[str, Any]) -> BoolArray:
    """Kept positions of a checked entry's tensor along some dims, flattened."""
    mask = np.zeros(part['raw'], bool)
    index = part.get('index')
    mask[slice(part['kept']) if index is None else index] = True
    return mask


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
    names = {'kept': f'{side}_channels', 'raw': f'raw_{side}_channels', 'index': f'{side}_index'}
    return {names[key]: value for key, value in tensor_entry(mask, places).items()}


def tensor_entry(mask: BoolArray, places: np.ndarray | None = None) -> dict[str, Any]:
    """The kept positions of a tensor's dims; ``mask_entry`` says what ``places`` are."""
    kept = int(mask.sum())
    entry: dict[str, Any] = {'kept': kept, 'raw': mask.size}
    places = np.flatnonzero(mask) if places is None else places
    if (places != np.arange(kept)).any():
        entry['index'] = places.tolist()
    return entry
