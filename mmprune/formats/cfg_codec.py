"""Between the labels that are alive and the channel config that says so per layer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmprune.channels.arrangement import places_of, row_key
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.channels.sizes import size_in
from mmprune.deploy.channel_cfg import marked
from mmprune.deploy.deployer import layers_with_channels
from mmprune.deploy.entries import (
    ChannelCfg,
    ChannelCfgError,
    entry_mask,
    mask_entry,
    tensor_entry,
    tensor_mask,
)
from mmprune.layers import Layer, mended_numbers
from mmprune.schema import checked, shown
from mmprune.supernet.supernet import Supernet
from mmprune.trace.walk import modules_of

_SIZE = r'\d{1,9}'
UNIT_NAME = re.compile(
    rf'(?P<layer>.+)_\((?P<start>{_SIZE}), ?(?P<stop>{_SIZE})\)_(?P<size>{_SIZE})$'
)


def write_cfg(supernet: Supernet, alive: BoolArray) -> dict[str, Any]:
    """The channel config of the subnet whose labels are ``alive``: every layer, one entry."""
    places = places_of(supernet.labelling.arrangements, alive)
    entries: dict[str, dict[str, Any]] = {}
    for name, layer in supernet.layers.items():
        entry: dict[str, Any] = {}
        for side, labels in (('in', layer.inputs), ('out', layer.outputs)):
            if labels is not None:
                order = places.get(row_key(labels)) if places else None
                entry.update(mask_entry(kept(alive, labels), side, order))
        tensors = _other_tensors(layer, alive, places)
        if tensors:
            entry['tensors'] = tensors
        if entry:
            entries[name] = entry
    for name, attributes in _attributes(supernet, alive).items():
        entries.setdefault(name, {})['attributes'] = attributes
    return marked(entries, len(layers_with_channels(supernet.model)))


def _attributes(supernet: Supernet, alive: BoolArray) -> dict[str, dict[str, Any]]:
    """What the numbers that modules store are in a subnet, where they differ."""
    numbers = supernet.labelling.size_attributes
    sizes = [size_in(number.size, alive) for number in numbers]
    return {
        name: {k: {'kept': _plain(new), 'raw': _plain(raw)} for k, (raw, new) in changed.items()}
        for name, changed in mended_numbers(numbers, sizes).items()
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _other_tensors(
    layer: Layer, alive: BoolArray, places: Mapping[bytes, IntArray]
) -> dict[str, Any]:
    """Cut dims of the tensors that do not follow from the layer's inputs and outputs."""
    found: dict[str, Any] = {}
    for local, factors in layer.tensors.items():
        if local in layer.known:
            continue
        for factor in factors:
            mask = kept(alive, factor)
            if not mask.all():
                order = places.get(row_key(factor)) if places else None
                found.setdefault(local, {})[_dims_key(factor)] = tensor_entry(mask, order)
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
        self.voices: list[str] = []
        # Why each label is pinned, as a number of ``reasons``; 0 if it is not.
        self.reasons = ['', 'not traced to any layer']
        self.pinned_by = np.zeros(supernet.size, int)
        for group in supernet.groups.values():
            if not group.prunable:
                self.pinned_by[group.labels] = len(self.reasons)
                self.reasons.append(group.reason)

    def take(self, layer: str, labels: IntArray, mask: BoolArray, what: str = '') -> None:
        """``layer`` keeps the channels with these labels where ``mask`` is True.

        Args:
            layer: Name of the layer, or of the unit.
            labels: The labels, (C,).
            mask: What is kept of them, (C,) bool.
            what: Which of the layer's channels they are, for messages.
        """
        self.voices.append(f"'{layer}'{what}")
        self._refuse_pinned(layer, labels, mask, what)
        labels, mask = labels[labels >= 0], mask[labels >= 0]
        known = self.said_by[labels] >= 0
        wrong = known & (self.alive[labels] != mask)
        if wrong.any():
            self._disagree(layer, labels, mask, int(labels[wrong][0]), what)
        self.alive[labels] = mask
        self.said_by[labels] = len(self.voices) - 1

    def _refuse_pinned(self, layer: str, labels: IntArray, mask: BoolArray, what: str) -> None:
        """Refuse to remove channels that cannot be removed, and say why they cannot."""
        pinned = np.where(labels < 0, 1, self.pinned_by[np.maximum(labels, 0)])
        removed = pinned[~mask]
        if removed.any():
            raise self.cfg.error(
                layer, f'keeps {int(mask.sum())} of {len(mask)} channels{what}, but '
                f'{int((pinned != 0).sum())} of them are pinned: {self.reasons[removed.max()]}'
            )  # fmt: skip

    def _disagree(
        self, layer: str, labels: IntArray, mask: BoolArray, label: int, what: str
    ) -> None:
        """Say who contradicts whom about the group of ``label``, and in how many channels."""
        group = next((g for g in self.supernet.groups.values() if label in g.labels), None)
        mine = np.isin(labels, group.labels) if group is not None else labels == label
        ours, theirs = int(mask[mine].sum()), int(self.alive[labels[mine]].sum())
        name = group.space_id if group is not None else '?'
        raise self.cfg.error(
            layer,
            f"keeps {ours} of the {int(mine.sum())} channels of group '{name}'{what}, but "
            f'{self.voices[self.said_by[label]]} keeps {theirs if theirs != ours else "others"}; '
            'the layers of a group must keep the same channels',
        )


def read_cfg(supernet: Supernet, cfg: ChannelCfg) -> BoolArray:
    """The labels that a channel config keeps, checked against the supernet.

    Raises:
        ChannelCfgError: Unknown layer, other raw channels, members of a group that
            disagree, a pinned channel removed, a constraint broken.
    """
    if cfg.is_unit_file:
        return _read_units(supernet, cfg)
    if cfg.sampled:
        raise cfg.error(
            cfg.sampled[0], 'samples its shortcut, so this is no subnet of the supernet; '
            'deploy_subnet and DeployedModel make a network of it'
        )  # fmt: skip
    reader = _Reader(supernet, cfg)
    modules = modules_of(supernet.model)
    for name, entry in cfg.layers().items():
        layer = supernet.layers.get(name)
        if layer is None:
            if name not in modules:
                raise cfg.error(name, 'the model has no such layer')
            if set(entry) == {'attributes'} or _loses_nothing(entry):
                continue
            raise cfg.error(name, 'mmprune found no channels of this layer in the traced model')
        for side, labels in (('in', layer.inputs), ('out', layer.outputs)):
            raw = entry.get(f'raw_{side}_channels')
            if raw is None:
                continue
            if labels is None:
                raise cfg.error(name, f'has {side}_channels, but the layer has none')
            if len(labels) != raw:
                raise cfg.error(
                    name, f'raw_{side}_channels is {raw}, but the layer has {len(labels)}: '
                    'this config was made for another model'
                )  # fmt: skip
            mask = entry_mask(entry, side)
            assert mask is not None  # it has raw channels
            reader.take(name, labels, mask, f' ({side}puts)')
        for local, parts in entry.get('tensors', {}).items():
            for key, part in parts.items():
                _take_tensor(reader, layer, local, str(key), part)
    _check_complete(supernet, cfg)
    supernet.check_alive(reader.alive, cfg.source)
    wanted = _attributes(supernet, reader.alive)
    for name in dict.fromkeys((*cfg.layers(), *wanted)):
        found, right = cfg.get(name, {}).get('attributes'), wanted.get(name)
        if found != right and (found or cfg.is_marked):
            raise cfg.error(name, f'has the attributes {shown(found)}, but {shown(right)} are left')
    return reader.alive


def _loses_nothing(entry: Mapping[str, Any]) -> bool:
    """Whether an entry keeps all inputs and outputs, as that of a layer that is never run does."""
    sides = [(entry.get(f'{s}_channels'), entry.get(f'raw_{s}_channels')) for s in ('in', 'out')]
    return 'tensors' not in entry and all(kept == raw for kept, raw in sides)


def _check_complete(supernet: Supernet, cfg: ChannelCfg) -> None:
    """Refuse a config that lacks a layer of which inputs or outputs can be pruned."""
    wanted = [
        name
        for name, layer in supernet.execution.layers.items()
        if layer.inputs is not None or layer.outputs is not None
    ]
    missing = [name for name in wanted if name not in cfg]
    if missing:
        raise cfg.error(
            missing[0],
            f'is missing; the config lists {len(wanted) - len(missing)} of the {len(wanted)} '
            'layers that can be pruned: it is cut off, or was made for another model',
        )


def _take_tensor(reader: _Reader, layer: Layer, local: str, key: str, part: Any) -> None:
    factors = [f for f in layer.tensors.get(local, ()) if _dims_key(f) == key]
    if not factors or factors[0].size != part['raw']:
        size = factors[0].size if factors else 0
        raise reader.cfg.error(
            layer.name, f"'{local}' has {size} channels along dims {key}, the config says "
            f'{part["raw"]}'
        )  # fmt: skip
    reader.take(layer.name, factors[0].ravel(), tensor_mask(part), f' ({local})')


def _read_units(supernet: Supernet, cfg: ChannelCfg) -> BoolArray:
    """A unit file of MMRazor 1.x: the first ``choice`` channels of every unit are kept.

    A unit is named after one of its layers, the positions in that layer's outputs, and its
    size: ``backbone.conv1_(0, 64)_64``.
    """
    where = f'{cfg.source}: lists no unit under channel_unit_cfg.units'
    found = checked(dict[str, Any], cfg['channel_unit_cfg'], where, ChannelCfgError)
    units = checked(dict[str, dict[str, Any]], found.get('units'), where, ChannelCfgError)
    if not units:
        raise ChannelCfgError(where)
    reader = _Reader(supernet, cfg)
    for unit, entry in units.items():
        match = UNIT_NAME.match(str(unit))
        layer = supernet.layers.get(match['layer']) if match else None
        if match is None or layer is None or layer.outputs is None:
            raise cfg.error(unit, 'the model has no layer of this name with output channels')
        start, stop, size = (int(match[key]) for key in ('start', 'stop', 'size'))
        if stop - start != size or stop > len(layer.outputs):
            raise cfg.error(
                unit, f'has {size} channels up to number {stop}, but the layer has '
                f'{len(layer.outputs)}: this file was made for another model'
            )  # fmt: skip
        count = _chosen(cfg, str(unit), entry, size)
        reader.take(str(unit), layer.outputs[start:stop], np.arange(size) < count)
    _check_units(supernet, reader)
    supernet.check_alive(reader.alive, cfg.source)
    return reader.alive


def _check_units(supernet: Supernet, reader: _Reader) -> None:
    """Refuse units that do not name all groups: those of another network name some by chance."""
    groups = supernet.prunable_groups
    missing = [s for s, group in groups.items() if (reader.said_by[group.labels] < 0).any()]
    if missing:
        raise reader.cfg.error(
            missing[0], f'no unit has its channels; the units have those of '
            f'{len(groups) - len(missing)} of the {len(groups)} groups that can be pruned: the '
            'file was made for another network, or by other options. Give each group a unit; one '
            'that stays whole chooses all of its channels'
        )  # fmt: skip


def _chosen(cfg: ChannelCfg, unit: str, entry: Mapping[str, Any], size: int) -> int:
    """How many of its ``size`` channels a unit of MMRazor 1.x keeps.

    A whole number says how many, and means all of them if it is larger: DMCP writes such
    numbers. A float says which share; MMRazor rounds down, and keeps at least one.
    """
    arguments = checked(dict[str, Any], entry.get('init_args', {}), cfg.source, ChannelCfgError)
    declared, choice = arguments.get('num_channels', size), entry.get('choice')
    if type(declared) is not int or declared != size:
        raise cfg.error(unit, f'num_channels is {shown(declared)}, but its name says {size}')
    if isinstance(choice, float) and 0 < choice <= 1:
        # The share was divided from a whole number, which may come back a hair too small.
        return max(1, int(choice * size + 1e-6))
    if not isinstance(choice, int) or isinstance(choice, bool) or choice < 1:
        raise cfg.error(unit, f'keeps {choice} of {size} channels; at least 1 must stay')
    if choice > size:
        message = f"{cfg.source}: layer '{unit}': chooses {choice} channels, all {size} stay"
        print_log(message, logger='current', level=logging.WARNING)
    return min(choice, size)
