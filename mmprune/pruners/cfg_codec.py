"""Between the labels that are alive and the channel config that says so per layer."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.deploy.channel_cfg import (
    FORMAT,
    FORMAT_KEY,
    ChannelCfg,
    ChannelCfgError,
    entry_mask,
    mask_entry,
    tensor_entry,
    tensor_mask,
)
from mmprune.layers import Layer, mended_numbers
from mmprune.pruners.supernet import Supernet

UNIT_NAME = re.compile(r'(?P<layer>.+)_\((?P<start>\d+), ?(?P<stop>\d+)\)_(?P<size>\d+)$')


def write_cfg(supernet: Supernet, alive: BoolArray) -> dict[str, Any]:
    """The channel config of the subnet whose labels are ``alive``: every layer, one entry."""
    entries: dict[str, dict[str, Any]] = {}
    for name, layer in supernet.layers.items():
        entry: dict[str, Any] = {}
        if layer.inputs is not None:
            entry.update(mask_entry(kept(alive, layer.inputs), 'in'))
        if layer.outputs is not None:
            entry.update(mask_entry(kept(alive, layer.outputs), 'out'))
        tensors = _other_tensors(layer, alive)
        if tensors:
            entry['tensors'] = tensors
        if entry:
            entries[name] = entry
    for name, changed in mended_numbers(supernet.labelling.size_attributes, alive).items():
        entries.setdefault(name, {})['attributes'] = {
            key: {'kept': _plain(new), 'raw': _plain(raw)} for key, (raw, new) in changed.items()
        }
    return {FORMAT_KEY: {**FORMAT, 'layers': len(entries)}, **entries}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _other_tensors(layer: Layer, alive: BoolArray) -> dict[str, Any]:
    """Cut dims of the tensors that do not follow from the layer's inputs and outputs."""
    found: dict[str, Any] = {}
    for local, factors in layer.tensors.items():
        if local in layer.known:
            continue
        for factor in factors:
            mask = kept(alive, factor)
            if not mask.all():
                found.setdefault(local, {})[_dims_key(factor)] = tensor_entry(mask)
    return found


def _dims_key(factor: IntArray) -> str:
    return ','.join(str(dim) for dim, size in enumerate(factor.shape) if size > 1)


class _Reader:
    """Collects what a config says about every label, and notices contradictions."""

    def __init__(self, supernet: Supernet, cfg: ChannelCfg) -> None:
        self.cfg = cfg
        self.supernet = supernet
        self.alive = np.ones(supernet.size, bool)
        self.said_by = np.full(supernet.size, -1)
        self.layers: list[str] = []
        self.group_of = np.full(supernet.size, -1)
        self.groups = list(supernet.groups.values())
        for index, group in enumerate(self.groups):
            self.group_of[group.labels] = index

    def take(self, layer: str, labels: IntArray, mask: BoolArray) -> None:
        """``layer`` keeps the channels with these labels where ``mask`` is True."""
        self.layers.append(layer)
        fixed = labels < 0
        if (~mask[fixed]).any():
            raise self.cfg.error(layer, f'removes {int((~mask[fixed]).sum())} channels that stay')
        labels, mask = labels[~fixed], mask[~fixed]
        known = self.said_by[labels] >= 0
        wrong = known & (self.alive[labels] != mask)
        if wrong.any():
            self._disagree(layer, labels, mask, int(labels[wrong][0]))
        self.alive[labels] = mask
        self.said_by[labels] = len(self.layers) - 1

    def _disagree(self, layer: str, labels: IntArray, mask: BoolArray, label: int) -> None:
        index = self.group_of[label]
        same = self.group_of[labels] == index
        group = self.groups[index] if index >= 0 else None
        name = group.space_id if group is not None else '?'
        total = labels[same]
        theirs = int(self.alive[total][self.said_by[total] >= 0].sum())
        raise self.cfg.error(
            layer,
            f"keeps {int(mask[same].sum())} channels of group '{name}', but layer "
            f"'{self.layers[self.said_by[label]]}' keeps {theirs} of them, or others; the layers "
            'of a group must keep the same channels',
        )


def read_cfg(supernet: Supernet, cfg: ChannelCfg) -> BoolArray:
    """The labels that a channel config keeps, checked against the supernet.

    Raises:
        ChannelCfgError: Unknown layer, other raw channels, members of a group that
            disagree, a pinned channel removed, a constraint broken.
    """
    if cfg.is_unit_file:
        return _read_units(supernet, cfg)
    reader = _Reader(supernet, cfg)
    modules = dict(supernet.model.named_modules())
    for name, entry in cfg.layers().items():
        layer = supernet.layers.get(name)
        if layer is None:
            if name not in modules:
                raise cfg.error(name, 'the model has no such layer')
            if set(entry) == {'attributes'}:
                continue
            raise cfg.error(name, 'mmprune found no channels of this layer in the traced model')
        for side, labels in (('in', layer.inputs), ('out', layer.outputs)):
            mask = entry_mask(cfg, name, entry, side)
            if mask is None:
                continue
            raw = 0 if labels is None else len(labels)
            if labels is None or raw != len(mask):
                raise cfg.error(
                    name, f'raw_{side}_channels is {len(mask)}, but the layer has {raw}: this '
                    'config was made for another model'
                )  # fmt: skip
            reader.take(name, labels, mask)
        for local, parts in entry.get('tensors', {}).items():
            for key, part in parts.items():
                _take_tensor(reader, layer, local, str(key), part)
    supernet.check_alive(reader.alive, cfg.source)
    return reader.alive


def _take_tensor(reader: _Reader, layer: Layer, local: str, key: str, part: Any) -> None:
    mask = tensor_mask(reader.cfg, layer.name, local, key, part)
    factors = [f for f in layer.tensors.get(local, ()) if _dims_key(f) == key]
    if not factors or factors[0].size != len(mask):
        size = factors[0].size if factors else 0
        raise reader.cfg.error(
            layer.name, f"'{local}' has {size} channels along dims {key}, the config says "
            f'{len(mask)}'
        )  # fmt: skip
    reader.take(layer.name, factors[0].ravel(), mask)


def _read_units(supernet: Supernet, cfg: ChannelCfg) -> BoolArray:
    """A unit file of MMRazor 1.x: the first ``choice`` channels of every unit are kept."""
    alive = np.ones(supernet.size, bool)
    units = cfg['channel_unit_cfg'].get('units', {})
    if not units:
        raise ChannelCfgError(f'{cfg.source}: lists no unit')
    for unit, entry in units.items():
        match = UNIT_NAME.match(unit)
        layer = supernet.layers.get(match['layer']) if match else None
        if match is None or layer is None or layer.outputs is None:
            raise cfg.error(unit, 'the model has no layer of this name with output channels')
        labels = layer.outputs[int(match['start']) : int(match['stop'])]
        size = entry['init_args']['num_channels']
        if len(labels) != size or int(match['stop']) > len(layer.outputs):
            raise cfg.error(unit, f'has {size} channels, the layer {len(layer.outputs)}')
        choice = entry.get('choice')
        count = round(choice * size) if isinstance(choice, float) else choice
        if not isinstance(count, int) or not 0 < count <= size:
            raise cfg.error(unit, f'keeps {choice} of {size} channels; at least 1 must stay')
        alive[labels[labels >= 0]] = (np.arange(size) < count)[labels >= 0]
    supernet.check_alive(alive, cfg.source)
    return alive
