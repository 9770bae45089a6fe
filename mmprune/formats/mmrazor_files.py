"""Subnets written in the formats of MMRazor 0.x and 1.x; ``cfg_codec`` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.deploy import ChannelCfgError
from mmprune.deploy.deployer import layers_with_channels, raw_channels
from mmprune.deploy.entries import FORMAT_KEY
from mmprune.fileio import write_text
from mmprune.formats.cfg_codec import write_cfg
from mmprune.layers.layer import NORMS
from mmprune.supernet.supernet import Supernet

VERSIONS = ('0.x', '1.x')
OWN_FORMAT = 'save_channel_cfg writes it in the format of mmprune'


def mmrazor_content(supernet: Supernet, alive: BoolArray, version: str) -> dict[str, Any]:
    """A subnet as MMRazor writes it.

    Args:
        supernet: The prepared network.
        alive: The labels that are kept.
        version: ``'0.x'``: a channel config; ``'1.x'``: a file of units.

    Raises:
        ChannelCfgError: The format cannot say it: other than the first channels are kept, or what
            is cut is no input or output of a layer.
    """
    if version not in VERSIONS:
        raise ChannelCfgError(f'version must be one of {", ".join(VERSIONS)}, not {version!r}')
    return _entries(supernet, alive) if version == '0.x' else _units(supernet, alive)


def save_mmrazor_file(content: dict[str, Any], path: str | Path) -> None:
    """Write it as JSON if the name ends so, else as YAML; all or nothing."""
    is_json = Path(path).suffix == '.json'
    write_text(json.dumps(content, indent=4) if is_json else yaml.safe_dump(content), path)


def _entries(supernet: Supernet, alive: BoolArray) -> dict[str, Any]:
    """The entries of 0.x: four numbers per layer, two per norm, of all layers of the model."""
    own = write_cfg(supernet, alive)
    own.pop(FORMAT_KEY)
    for name, entry in own.items():
        more = [key for key in entry if key.endswith('_index')]
        if more:
            side = more[0].removesuffix('_index')
            raise ChannelCfgError(
                f"layer '{name}': keeps other than the first {entry[f'{side}_channels']} of "
                f'{entry[f"raw_{side}_channels"]} {side}puts, which a file of MMRazor 0.x cannot '
                f'say; {OWN_FORMAT}'
            )
        entry.pop('attributes', None)  # what MMRazor does not write: numbers that modules store
        if 'tensors' in entry:
            raise ChannelCfgError(
                f"layer '{name}': {', '.join(entry['tensors'])} is cut too, which a file of "
                f'MMRazor 0.x cannot say; {OWN_FORMAT}'
            )
    modules = dict(supernet.model.named_modules())
    for name in layers_with_channels(supernet.model):
        for side in ('in', 'out'):
            raw = raw_channels(modules[name], side)
            if raw is not None:
                entry = own.setdefault(name, {})
                entry.setdefault(f'{side}_channels', raw)
                entry.setdefault(f'raw_{side}_channels', raw)
    return {name: dict(sorted(own[name].items())) for name in sorted(own) if own[name]}


def _units(supernet: Supernet, alive: BoolArray) -> dict[str, Any]:
    """The units of 1.x: one number per group, named after a layer and a range of its outputs."""
    units = {}
    for space_id, group in supernet.prunable_groups.items():
        size = group.num_channels
        place = _place(supernet, group)
        if place is None:
            raise ChannelCfgError(
                f"group '{space_id}': its {size} channels are no range of outputs of a layer, "
                f'which a unit file of MMRazor 1.x cannot say; {OWN_FORMAT}'
            )
        layer, start = place
        labels = supernet.layers[layer].outputs
        assert labels is not None  # it was found by its outputs
        mask = alive[labels[start : start + size]]
        count = int(mask.sum())
        if not mask[:count].all():
            raise ChannelCfgError(
                f"group '{space_id}': keeps other than the first {count} of {size} channels, which "
                f'a unit file of MMRazor 1.x cannot say; {OWN_FORMAT}'
            )
        arguments = dict(
            num_channels=size, choice_mode='number', divisor=1, min_value=1, min_ratio=0.9
        )
        units[f'{layer}_({start}, {start + size})_{size}'] = dict(init_args=arguments, choice=count)
    return dict(
        type='ChannelMutator',
        channel_unit_cfg=dict(
            type='SequentialMutableChannelUnit',
            default_args=dict(choice_mode='number'),
            units=units,
        ),
    )


def _place(supernet: Supernet, group: ChannelGroup) -> tuple[str, int] | None:
    """A layer, norms last, and where in its outputs the channels of a group lie side by side."""
    modules = dict(supernet.model.named_modules())
    size = group.num_channels
    names = sorted(group.layers, key=lambda name: isinstance(modules.get(name), NORMS))
    for name in names:
        layer = supernet.layers.get(name)
        if layer is None or layer.outputs is None:
            continue
        places = np.flatnonzero(np.isin(layer.outputs, group.labels))
        own = layer.outputs[places]
        if len(own) == size == len(np.unique(own)) and places[-1] - places[0] == size - 1:
            return name, int(places[0])
    return None
