"""What is known about a prepared network, as plain data: for the report, a file, a picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.registry import CHANNEL_RULES, table
from mmprune.supernet.road_book import described
from mmprune.supernet.supernet import Supernet
from mmprune.trace import TraceGraph

LEAVES = ('parameter', 'input')
"""Nodes that are no operations."""
NUMBERED = re.compile(r'(?<=\.)\d+(?=[.\s:,)]|$)')
"""The number of a block in the name of a module."""


@dataclass(frozen=True)
class Place:
    """A module of the network; the root's name is empty."""

    name: str
    kind: str

    def __str__(self) -> str:
        return f'{self.name} ({self.kind})' if self.name else f'the root module ({self.kind})'


@dataclass(frozen=True)
class Unknown:
    """An operation that mmprune could not follow.

    Attributes:
        operation: Name of the autograd node, or of the operation that a parser made of it.
        lacks: ``'parser'`` or ``'channel rule'``.
        times: How often it ran.
        places: The modules that it ran in.
    """

    operation: str
    lacks: str
    times: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Cost:
    """Parameters and MACs (of the whole demo batch) of one choice of channels."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Pinned:
    """What one reason keeps from being pruned.

    Reasons that differ in the numbers of blocks only are one, with ``*`` for the number.
    ``params`` and ``macs`` are what the network would lose besides if these groups, too, could
    be halved where all prunable groups are.
    """

    reason: str
    groups: tuple[str, ...]
    channels: int
    params: int
    macs: int


@dataclass(frozen=True)
class Findings:
    """Everything that a doctor says about a network before it is verified.

    Attributes:
        model: Class of the network.
        operations: How often each operation was traced; leaves are left out.
        nodes: Nodes of the traced graph, leaves included.
        layers: Modules whose channels or tensors carry labels.
        calls: Calls of modules.
        unknown: Operations without parser or channel rule.
        roads: The roads that were walked, a description each.
        not_walked: Roads that could not be walked -> why.
        unreached: Reason -> parameters that the outputs do not depend on.
        escapes: How values are used outside of the autograd graph, each once.
        groups: All channel groups, in order of execution.
        kept: How many channels of each group the subnet that is set has.
        pinned: Why groups are pinned, the reason that costs most first.
        full: Cost of the full width.
        current: Cost of the subnet that is set.
        half: Cost with half of every prunable group.
        prunable: Parameters and MACs that belong to at least one prunable channel.
    """

    model: str
    operations: dict[str, int]
    nodes: int
    layers: int
    calls: int
    unknown: tuple[Unknown, ...]
    roads: tuple[str, ...]
    not_walked: dict[str, str]
    unreached: dict[str, tuple[str, ...]]
    escapes: tuple[str, ...]
    groups: tuple[ChannelGroup, ...]
    kept: tuple[int, ...]
    pinned: tuple[Pinned, ...]
    full: Cost
    current: Cost
    half: Cost
    prunable: Cost

    @property
    def prunable_groups(self) -> int:
        """How many groups can be pruned."""
        return sum(group.prunable for group in self.groups)

    @property
    def prunable_params(self) -> float:
        """Share of the parameters that belong to at least one prunable channel."""
        return self.prunable.params / max(self.full.params, 1)

    @property
    def prunable_macs(self) -> float:
        """Share of the MACs that belong to at least one prunable channel."""
        return self.prunable.macs / max(self.full.macs, 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'model': self.model,
            'traced': {
                'nodes': self.nodes,
                'layers': self.layers,
                'calls': self.calls,
                'operations': self.operations,
                'roads': list(self.roads),
                'roads_not_walked': self.not_walked,
            },
            'unknown_operations': [
                {**vars(unknown), 'places': [vars(place) for place in unknown.places]}
                for unknown in self.unknown
            ],
            'unreached_parameters': {why: list(names) for why, names in self.unreached.items()},
            'used_outside_of_the_graph': list(self.escapes),
            'prunable_share': {'params': self.prunable_params, 'macs': self.prunable_macs},
            'costs': [vars(c) for c in (self.full, self.current, self.half)],
            'pinned': [{**vars(pinned), 'groups': list(pinned.groups)} for pinned in self.pinned],
            'groups': [
                _group_dict(group, kept) for group, kept in zip(self.groups, self.kept, strict=True)
            ],
        }


def find(supernet: Supernet) -> Findings:
    """Collect what is known about a prepared network; nothing is run."""
    graph, groups = supernet.graph, supernet.groups
    full, fixed = np.ones(supernet.size, bool), np.ones(supernet.size, bool)
    half = full.copy()
    for group in supernet.prunable_groups.values():
        fixed[group.labels] = False
        first = -np.arange(group.num_channels, dtype=np.float64)
        half[group.labels] = group.select(first, max(1, group.num_channels // 2))
    # Labels that are no valid subnet: what is left of a tensor may be no box, or nothing.
    at_full, at_fixed = _cost(supernet, 'full width', full), _cost(supernet, 'fixed', fixed)
    prunable = Cost('prunable', at_full.params - at_fixed.params, at_full.macs - at_fixed.macs)
    operations = Counter(node.op for node in graph.nodes if node.op not in (*LEAVES, 'opaque'))
    return Findings(
        model=type(supernet.model).__name__,
        operations=dict(operations.most_common()),
        nodes=len(graph.nodes),
        layers=len(supernet.layers),
        calls=len(graph.calls),
        unknown=tuple(_unknown(supernet)),
        roads=tuple(described(graph, supernet.not_walked())),
        not_walked=supernet.not_walked(),
        unreached=_unreached(graph),
        escapes=tuple(dict.fromkeys(reason for _, reason in graph.escapes)),
        groups=tuple(groups.values()),
        kept=tuple(int(supernet.alive[group.labels].sum()) for group in groups.values()),
        pinned=tuple(_pinned(supernet, half)),
        full=at_full,
        current=_cost(supernet, 'subnet that is set', supernet.alive),
        half=_cost(supernet, 'half of every prunable group', half),
        prunable=prunable,
    )


def _cost(supernet: Supernet, name: str, alive: BoolArray) -> Cost:
    model = supernet.cost_model
    return Cost(name, model.params(alive), model.macs(alive))


def _unknown(supernet: Supernet) -> Iterable[Unknown]:
    """Operations that pin what reaches them because nobody has explained them."""
    kinds = {name: type(module).__name__ for name, module in supernet.model.named_modules()}
    rules = table(CHANNEL_RULES)
    found: dict[tuple[str, str], list[str]] = {}
    for node in supernet.graph.nodes:
        if node.op == 'opaque':
            found.setdefault((node.source, 'parser'), []).append(node.module)
        elif node.op not in LEAVES and node.op not in rules:
            found.setdefault((node.op, 'channel rule'), []).append(node.module)
    for (operation, lacks), modules in found.items():
        places = tuple(Place(name, kinds.get(name, '?')) for name in dict.fromkeys(modules))
        yield Unknown(operation, lacks, len(modules), places)


def _unreached(graph: TraceGraph) -> dict[str, tuple[str, ...]]:
    """Reason -> parameters; the trace's own reason, and whether their module ran at all."""
    called = {call.module for call in graph.calls}
    found: dict[str, list[str]] = {}
    for name, why in graph.unreached.items():
        owner = name.rpartition('.')[0]
        why += '; its module ran' if owner in called else '; no road ran its module'
        found.setdefault(why, []).append(name)
    return {why: tuple(names) for why, names in found.items()}


def _pinned(supernet: Supernet, half: BoolArray) -> list[Pinned]:
    by_pattern: dict[str, list[ChannelGroup]] = {}
    for group in supernet.groups.values():
        if not group.prunable:
            by_pattern.setdefault(NUMBERED.sub('*', group.reason), []).append(group)
    at_half = _cost(supernet, 'half', half)
    found = []
    for pattern, groups in by_pattern.items():
        alive = half.copy()
        for group in groups:
            alive[group.labels[(group.num_channels + 1) // 2 :]] = False
        reasons, less = {group.reason for group in groups}, _cost(supernet, 'less', alive)
        found.append(
            Pinned(
                reasons.pop() if len(reasons) == 1 else pattern,
                tuple(group.space_id for group in groups),
                sum(group.num_channels for group in groups),
                at_half.params - less.params,
                at_half.macs - less.macs,
            )
        )
    return sorted(found, key=lambda pinned: -pinned.params)


def _group_dict(group: ChannelGroup, kept: int) -> dict[str, Any]:
    return {
        'space_id': group.space_id,
        'channels': group.num_channels,
        'kept': kept,
        'prunable': group.prunable,
        'reason': group.reason,
        'made_by': list(group.layers),
        'read_by': list(group.consumers),
        'members': [
            {'tensor': member.tensor, 'dims': list(member.dims)} for member in group.members
        ],
        'constraints': [
            {
                'reason': constraint.reason,
                'blocks': len(constraint.blocks),
                'channels_per_block': constraint.blocks.shape[1],
            }
            for constraint in group.constraints
        ],
        'shuffled': None
        if group.arrangement is None
        else {
            'reason': group.arrangement.reason,
            'multiples_of': group.arrangement.each,
            'kinds': group.arrangement.num_kinds,
        },
    }
