"""Flat lists of widths, in the order in which the layers run, as a search of AMC's kind gives them.

Source: He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from mmprune.deploy.channel_cfg import marked
from mmprune.deploy.deployer import layers_with_channels, raw_channels
from mmprune.deploy.shortcuts import sampled_index
from mmprune.errors import InputError
from mmprune.layers.layer import CONVS
from mmprune.schema import checked
from mmprune.supernet.supernet import Supernet
from mmprune.trace import TraceNode

PROJECTIONS = ('*.downsample.*', '*.shortcut.*')
"""Layers that such lists leave out: the projections of shortcuts."""
RESIDUALS = ('union', 'sample')


def listed_layers(supernet: Supernet, skip: Sequence[str] = PROJECTIONS) -> list[str]:
    """The layers that a list has widths for, in the order in which they run.

    Convolutions but the depthwise ones, which have the width of what they read.

    Args:
        supernet: The prepared network.
        skip: Patterns of names to leave out.
    """
    modules = dict(supernet.model.named_modules())
    found: dict[str, None] = {}
    for site in supernet.labelling.sites:
        module = modules.get(site.layer)
        if site.role != 'out' or not isinstance(module, CONVS):
            continue
        is_depthwise = module.groups > 1 and module.groups == raw_channels(module, 'in')
        if not is_depthwise and not any(fnmatchcase(site.layer, pattern) for pattern in skip):
            found.setdefault(site.layer)
    return list(found)


def widths_of_list(
    supernet: Supernet,
    channels: Sequence[int],
    skip: Sequence[str] = PROJECTIONS,
    has_input: bool = False,
    unused: int = 0,
) -> dict[str, int]:
    """Width of every listed layer.

    Args:
        supernet: The prepared network.
        channels: The list.
        skip: Patterns of layers that are not in the list.
        has_input: Whether the first entry is the number of the network's input channels.
        unused: How many entries at the end stand for no layer.

    Raises:
        InputError: The list has another length than the network has layers, or an entry is no
            width of its layer.
    """
    layers = listed_layers(supernet, skip)
    channels = channels.tolist() if isinstance(channels, torch.Tensor | np.ndarray) else channels
    entries = checked(list, channels, 'channels, a list of widths')[
        int(has_input) : len(channels) - unused
    ]
    if len(entries) != len(layers):
        raise InputError(
            f'the list has {len(entries)} widths'
            f'{f" between the input and {unused} unused ones" if has_input or unused else ""}, '
            f'the network {len(layers)} layers to list, {layers[:2]} ... {layers[-1:]}; see skip, '
            'has_input and unused'
        )
    modules = dict(supernet.model.named_modules())
    for number, (name, width) in enumerate(zip(layers, entries, strict=True), int(has_input)):
        raw = raw_channels(modules[name], 'out')
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= (raw or 0):
            raise InputError(
                f"entry {number} of the list is {width!r}, but layer '{name}' has from 1 to {raw} "
                'channels; a list for a wider network needs that network'
            )
    return dict(zip(layers, entries, strict=True))


def union_counts(supernet: Supernet, widths: Mapping[str, int]) -> dict[str, int]:
    """Channels of every prunable group: the largest width that one of its layers is given.

    Raises:
        InputError: A layer's channels are pinned or belong to several groups, and the list
            gives it fewer than all.
    """
    counts = {s: group.num_channels for s, group in supernet.prunable_groups.items()}
    wanted: dict[str, int] = {}
    for name, width in widths.items():
        labels = supernet.layers[name].outputs
        assert labels is not None  # a convolution has them
        groups = [
            group for group in supernet.groups.values() if np.isin(labels, group.labels).any()
        ]
        if width == len(labels) and not any(group.prunable for group in groups):
            continue
        if len(groups) != 1 or not groups[0].prunable or groups[0].num_channels != len(labels):
            why = groups[0].reason if len(groups) == 1 else f'they are in {len(groups)} groups'
            raise InputError(
                f"the list gives layer '{name}' {width} of {len(labels)} channels, which cannot "
                f'be chosen: {why or "each decides about several of them"}'
            )
        space_id = groups[0].space_id
        wanted[space_id] = max(width, wanted.get(space_id, 0))
    return {**counts, **wanted}


@dataclass
class _Flow:
    """The channels of a traced tensor: how many, from which layer, which layers wait to know.

    ``width`` is None behind a projection that no list names: it gets the width of its sum.
    """

    width: int | None
    source: str
    waiting: list[str] = field(default_factory=list)


@dataclass
class _Sampled:
    """What a walk along the graph finds: widths of layers, widths of shortcuts to be sampled."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    shortcuts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def know(self, flow: _Flow, width: int) -> None:
        """Tell the layers that wait for the width of ``flow``."""
        for name in flow.waiting:
            self.outputs[name] = width

    def join(self, node: TraceNode, flows: list[_Flow]) -> _Flow:
        """The sum of a block and its shortcut, which is sampled if it has another width."""
        prefix = f'{node.module}.' if node.module else ''
        main = [
            flow
            for flow in flows
            if flow.source.startswith(prefix)
            and not flow.source.startswith((f'{prefix}downsample', f'{prefix}shortcut'))
        ]
        known = {flow.width for flow in flows}
        if len(known) == 1 and None not in known:
            return flows[0]
        if len(main) != 1 or main[0].width is None or len(flows) != 2:
            raise InputError(
                f'{node.where} joins {[flow.width for flow in flows]} channels of '
                f"{[flow.source for flow in flows]}, which is no block with a shortcut 'downsample'"
                "; use residual='union'"
            )
        (shortcut,) = [flow for flow in flows if flow is not main[0]]
        if shortcut.width is None:
            self.know(shortcut, main[0].width)
        else:
            self.shortcuts[node.module] = (shortcut.width, main[0].width)
        return main[0]


def sampled_cfg(supernet: Supernet, widths: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """The channel config of a network with these widths, shortcuts sampled to fit.

    Every layer keeps its first channels. Where a shortcut has another width than its block's
    last layer, it is sampled by a fixed index, which the config holds.

    Raises:
        InputError: Widths that differ meet elsewhere than in a block with a ``downsample``.
    """
    found = _walk(supernet, widths)
    random = np.random.default_rng(seed)
    modules = dict(supernet.model.named_modules())
    entries: dict[str, Any] = {}
    layers = layers_with_channels(supernet.model)
    for name in layers:
        entry: dict[str, int] = {}
        for side, counts in (('in', found.inputs), ('out', found.outputs)):
            raw = raw_channels(modules[name], side)
            if raw is not None:
                entry[f'{side}_channels'] = counts.get(name, raw)
                entry[f'raw_{side}_channels'] = raw
        entries[name] = entry
    for block, (width, wanted) in found.shortcuts.items():
        index = sampled_index(width, wanted, random)
        entries.setdefault(block, {})['shortcut'] = {'raw': width, 'index': index}
    return marked(entries, len(layers))


def _walk(supernet: Supernet, widths: Mapping[str, int]) -> _Sampled:
    modules = dict(supernet.model.named_modules())
    sites: dict[int, dict[str, str]] = {}
    for site in supernet.labelling.sites:
        sites.setdefault(site.node, {})[site.role] = site.layer
    found = _Sampled()
    flows: list[_Flow | None] = []
    for node in supernet.graph.nodes:
        read = [flows[edge[0]] for edge in node.inputs if edge is not None]
        known = [flow for flow in read if flow is not None]
        roles = sites.get(node.id, {})
        flow = known[0] if known else None
        if 'norm' in roles and flow is not None:
            if flow.width is None:
                flow.waiting.append(roles['norm'])
            else:
                found.outputs[roles['norm']] = flow.width
        elif 'out' in roles:
            flow = _through_layer(found, roles['out'], modules[roles['out']], flow, widths)
        elif len(known) > 1:
            if node.op != 'elementwise':
                raise InputError(
                    f'{node.where} joins the channels of {[flow.source for flow in known]}, which '
                    "residual='sample' cannot follow; use residual='union'"
                )
            flow = found.join(node, known)
        flows.append(flow)
    return found


def _through_layer(
    found: _Sampled, name: str, module: Any, flow: _Flow | None, widths: Mapping[str, int]
) -> _Flow:
    """What a layer makes of what it reads."""
    raw_in, raw_out = raw_channels(module, 'in'), raw_channels(module, 'out')
    if flow is not None and flow.width is not None:
        found.inputs[name] = flow.width
        is_conv = isinstance(module, CONVS)
        if is_conv and module.groups > 1 and module.groups == raw_in == raw_out:
            found.outputs[name] = flow.width
            return _Flow(flow.width, name)
        if flow.width > (raw_in or 0) or (is_conv and module.groups > 1):
            raise InputError(
                f"layer '{name}' reads {flow.width} channels, which residual='sample' cannot cut "
                f'(it has {raw_in} inputs, {getattr(module, "groups", 1)} groups); use '
                "residual='union'"
            )
    if name in widths:
        found.outputs[name] = widths[name]
        return _Flow(widths[name], name)
    if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS):
        return _Flow(None, name, [name])
    return _Flow(raw_out, name)
