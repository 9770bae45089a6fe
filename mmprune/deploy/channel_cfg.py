"""The channel config: a subnet written per layer, complete enough to deploy without a trace.

It is a mapping from layer names to entries, as MMRazor 0.x writes it:

    backbone.conv1:
      in_channels: 3
      out_channels: 2
      raw_in_channels: 3
      raw_out_channels: 4
      out_index: [0, 3]        # only where the kept channels are not the first ones

An index that does not ascend says in which order the channels stand in the small network, behind
a shuffle (see ``mmprune.channels.arrangement``). Norms have only the ``out`` half. A parameter
that does not follow from its layer's inputs and outputs (a layer scale, a position embedding) is
listed under ``tensors``, per dims: ``tensors: {gamma: {'0': {kept: 2, raw: 4, index: [0, 3]}}}``; a
dims key with a comma (``'0,1'``) means positions of those dims flattened. Numbers that a module
stores and that are sizes of channels (``num_heads``) are under
``attributes: {num_heads: {kept: 6, raw: 12}}``.

The key ``__format__``, which comes first, names the format and counts the layers that
follow; ``model_layers`` in it is the number of convolutions, linear layers and norms of the
model, by which a config for another model is told. A file ends with the count of its layers
once more, under ``__end__``: YAML that was cut off is still YAML. Files of MMRazor 0.x have
neither key; they are complete if they list every layer of the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmprune.datafiles import YAML_DUMPER, read_data
from mmprune.deploy.entries import FORMAT_KEY, ChannelCfg, ChannelCfgError, check_entry
from mmprune.fileio import write_text
from mmprune.schema import shown

FORMAT = {'name': 'mmprune channel config', 'version': 1}
END_KEY = '__end__'
UNIT_FILE = {'type', 'channel_unit_cfg', 'parse_cfg', 'custom_groups', 'init_cfg'}
"""The keys of a unit file."""


def as_channel_cfg(
    cfg: Mapping[str, Any] | str | Path, source: str = 'the channel config'
) -> ChannelCfg:
    """A channel config from a dict, or from a file.

    Args:
        cfg: The dict, or the file's name.
        source: What messages call a dict.

    Raises:
        ChannelCfgError: It is something else, or broken.
    """
    if isinstance(cfg, ChannelCfg):
        return cfg
    if isinstance(cfg, str | Path):
        return load_channel_cfg(cfg)
    if not isinstance(cfg, Mapping):
        raise ChannelCfgError(
            f'expected a channel config, as a mapping or the name of a file, not {shown(cfg)}'
        )
    return _checked(ChannelCfg(cfg, source))


def load_channel_cfg(path: str | Path) -> ChannelCfg:
    """Read a channel config (YAML or JSON) or an MMRazor 1.x unit file.

    Raises:
        ChannelCfgError: The file is missing, broken, cut off, or something else.
    """
    entries = read_data(path, 'a channel config', ChannelCfgError)
    if not isinstance(entries, dict):
        kind = 'empty' if entries is None else f'a {type(entries).__name__}'
        raise ChannelCfgError(f'{path}: is no channel config: {kind} instead of a mapping')
    end = entries.pop(END_KEY, None)
    cfg = ChannelCfg(entries, str(path))
    _check_format(cfg)
    if end is not None and not cfg.is_marked:
        raise ChannelCfgError(f'{path}: its beginning is missing, the key {FORMAT_KEY}')
    if cfg.is_marked and end != _declared(cfg):
        raise ChannelCfgError(
            f'{path}: cut off after {len(cfg.layers())} of {_declared(cfg)} layers: its last line '
            f'should be "{END_KEY}: {_declared(cfg)}", and '
            f'{"is missing" if end is None else f"says {end}"}'
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
    write_text(
        json.dumps(entries, indent=1)
        if path.suffix == '.json'
        else ''.join(_line(key, value) for key, value in entries.items()),
        path,
    )


def marked(entries: Mapping[str, Any], model_layers: int) -> dict[str, Any]:
    """Entries of layers with the key of the format, for a model of so many layers."""
    counts = {'layers': len(entries), 'model_layers': model_layers}
    return {FORMAT_KEY: {**FORMAT, **counts}, **entries}


def digest_of(cfg: Mapping[str, Any]) -> str:
    """What tells one channel config from another, whatever the order of its keys."""
    text = json.dumps(cfg, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(key: str, value: Any) -> str:
    """A key and its value as one line of YAML, so that no line can be lost unnoticed."""
    mapping = yaml.dump(
        {key: value}, Dumper=YAML_DUMPER, default_flow_style=True, sort_keys=False, width=2**30
    )
    return f'{mapping.strip()[1:-1]}\n'


def _declared(cfg: ChannelCfg) -> Any:
    """How many layers the format line promises."""
    return cfg[FORMAT_KEY].get('layers')


def _check_format(cfg: ChannelCfg) -> None:
    """Refuse a format other than mmprune's; none at all is that of MMRazor 0.x."""
    version = cfg.get(FORMAT_KEY, FORMAT)
    if not isinstance(version, Mapping) or version.get('name') != FORMAT['name']:
        raise ChannelCfgError(f'{cfg.source}: {FORMAT_KEY} is {shown(version)}, not {FORMAT}')
    if version.get('version') != FORMAT['version']:
        raise ChannelCfgError(
            f'{cfg.source}: has format version {version.get("version")}, this mmprune reads '
            f'version {FORMAT["version"]}; update mmprune'
        )


def _checked(cfg: ChannelCfg) -> ChannelCfg:
    """Check everything that can be checked without a model."""
    if cfg.is_unit_file:
        beside = [key for key in cfg if key not in UNIT_FILE]
        if beside:
            raise cfg.error(beside[0], 'stands beside channel_unit_cfg: is this a file of units?')
        return cfg
    _check_format(cfg)
    if not cfg.layers():
        raise ChannelCfgError(f'{cfg.source}: lists no layer')
    if cfg.is_marked and _declared(cfg) != len(cfg.layers()):
        raise ChannelCfgError(
            f'{cfg.source}: cut off or put together: it lists {len(cfg.layers())} layers, its '
            f'first line promises {_declared(cfg)}'
        )
    for name, entry in cfg.layers().items():
        if not isinstance(name, str):
            raise cfg.error(name, 'a layer is named by text: put its name in quotes')
        check_entry(cfg, name, entry)
    return cfg
