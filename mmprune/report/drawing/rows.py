"""The lines of the picture: layers in order of execution, and whose channels each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmprune.channels import ChannelGroup, Labelling
from mmprune.channels.labels import IntArray
from mmprune.trace import TraceGraph, TraceNode

MAX_RUNS = 6
"""Channels that alternate more often than that are put together by group."""
NO_GROUP = -1


@dataclass(frozen=True)
class Run:
    """Neighbouring channels of one group, ``NO_GROUP`` where nothing is known of them."""

    group: int
    count: int


@dataclass(frozen=True)
class Row:
    """A layer, a parameter that no layer owns, or an operation that mmprune does not know.

    Attributes:
        name: Dotted name of the module or parameter.
        kind: What it is, in a few words.
        reads: Groups of its input channels, in order; empty if it has none.
        makes: Groups of its output channels.
        norm: Last name of the norm that follows and is drawn with it.
        is_unknown: Whether it is an operation that mmprune does not know.
    """

    name: str
    kind: str
    reads: tuple[Run, ...] = ()
    makes: tuple[Run, ...] = ()
    norm: str = ''
    is_unknown: bool = False

    @property
    def passes(self) -> bool:
        """Whether it only hands on what it reads, as a norm or a depthwise convolution does."""
        return self.reads == self.makes

    @property
    def groups(self) -> set[int]:
        """The groups that the row has a part in."""
        return {run.group for run in (*self.reads, *self.makes)} - {NO_GROUP}


def rows_of(
    graph: TraceGraph,
    labelling: Labelling,
    groups: Sequence[ChannelGroup],
    channels: Mapping[str, tuple[IntArray | None, IntArray | None]],
    kinds: Mapping[str, str],
) -> list[Row]:
    """The rows of a network.

    Args:
        graph: The trace.
        labelling: Its labels.
        groups: The groups made of them; a run's ``group`` is a position here.
        channels: Layer -> labels of its input and of its output channels, if known.
        kinds: Module -> what it is, in a few words.
    """
    group_of = np.full(labelling.num_labels + 1, NO_GROUP)
    for index, group in enumerate(groups):
        group_of[group.labels] = index

    is_prunable = np.array([group.prunable for group in groups] + [False])

    def runs(labels: IntArray | None) -> tuple[Run, ...]:
        return () if labels is None else runs_of(group_of[np.maximum(labels, -1)])

    placed: list[tuple[int, Row]] = []
    norms = {site.layer for site in labelling.sites if site.role == 'norm'}
    first: dict[str, int] = {}
    sites: dict[tuple[str, str], IntArray] = {}
    for site in labelling.sites:
        first.setdefault(site.layer, site.node)
        sites.setdefault((site.layer, site.role), site.labels)
    for name, node in first.items():
        inputs, outputs = channels.get(name, (None, None))
        if name in norms:
            reads = makes = runs(_of_norm(name, sites[name, 'norm'], labelling))
        else:
            reads = runs(inputs if inputs is not None else sites.get((name, 'in')))
            makes = runs(outputs if outputs is not None else sites.get((name, 'out')))
        placed.append((node, Row(name, kinds.get(name, ''), reads, makes)))
    owners = frozenset(first)
    placed.extend(_bare_parameters(graph, labelling, group_of, is_prunable, owners))
    placed.extend(_unknown(graph))
    placed.sort(key=lambda item: item[0])
    return _fold([row for _, row in placed], norms)


def runs_of(groups: IntArray) -> tuple[Run, ...]:
    """Neighbours with one group, or one run per group if they alternate too often."""
    groups = groups.ravel()
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    counts = np.diff([*starts, len(groups)])
    found = [Run(int(groups[s]), int(c)) for s, c in zip(starts, counts, strict=True)]
    if len(found) > MAX_RUNS:
        totals: dict[int, int] = {}
        for run in found:
            totals[run.group] = totals.get(run.group, 0) + run.count
        found = [Run(group, count) for group, count in totals.items()]
    return tuple(found)


def _of_norm(name: str, labels: IntArray, labelling: Labelling) -> IntArray:
    """The labels of a norm's own weight where its channels have none that is known."""
    own = labelling.tensors.get(f'{name}.weight', ())
    known = [factor.ravel() for factor in own if factor.size == labels.size]
    return np.where(labels < 0, known[0], labels) if known else labels


def _bare_parameters(
    graph: TraceGraph,
    labelling: Labelling,
    group_of: IntArray,
    is_prunable: IntArray,
    layers: frozenset[str],
) -> list[tuple[int, Row]]:
    """Parameters and buffers that no layer with channels owns: tokens, embeddings, scales."""
    names = {node.id: node.attrs['name'] for node in graph.nodes if node.op == 'parameter'}
    used: dict[str, int] = {}
    for node in graph.nodes:
        for edge in node.inputs:
            if edge is not None and edge[0] in names:
                used.setdefault(names[edge[0]], node.id)
    found = []
    for name, factors in labelling.tensors.items():
        if name.rpartition('.')[0] in layers or name not in used:
            continue
        along = [group_of[np.maximum(factor, -1)] for factor in factors]
        along = [indices for indices in along if (indices != NO_GROUP).any()]
        if along:
            best = max(along, key=lambda indices: (is_prunable[indices].any(), indices.size))
            shape = 'x'.join(map(str, labelling.shapes[name]))
            row = Row(name, f'parameter {shape}', (), runs_of(best))
            found.append((used[name], row))
    return found


def _unknown(graph: TraceGraph) -> list[tuple[int, Row]]:
    """Operations without a parser; one row for those that follow each other in a module."""
    found: list[tuple[int, Row]] = []
    last: TraceNode | None = None
    for node in graph.nodes:
        if node.op == 'opaque' and node.inputs:
            if last is None or (last.module, last.source) != (node.module, node.source):
                kind = f'{node.source}: no parser'
                found.append((node.id, Row(node.module, kind, is_unknown=True)))
            last = node
    return found


def _fold(rows: Sequence[Row], norms: set[str]) -> list[Row]:
    """Draw a norm with the layer right before it if it stands beside it and has its channels."""
    folded: list[Row] = []
    for row in rows:
        before = folded[-1] if folded else None
        parent, _, leaf = row.name.rpartition('.')
        if (
            before is not None
            and row.name in norms
            and before.name not in norms
            and not before.norm
            and before.name.rpartition('.')[0] == parent
            and before.makes == row.makes
        ):
            folded[-1] = replace(before, norm=leaf)
        else:
            folded.append(row)
    return folded
