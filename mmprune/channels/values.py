"""The labels of every traced tensor, for whoever wants to know how large each is in a subnet."""

from __future__ import annotations

from mmprune.channels.labels import LabelBook, Value
from mmprune.channels.leaves import Leaves
from mmprune.channels.propagate import Labelling, Wishes, _one_pass
from mmprune.trace.trace_graph import Edge, TraceGraph


def values_at_rest(graph: TraceGraph, labelling: Labelling, wishes: Wishes) -> dict[Edge, Value]:
    """One more pass over a graph whose labels have come to rest, with all of its tensors kept.

    Args:
        graph: The trace.
        labelling: What ``propagate`` has found for it.
        wishes: What it was found with.
    """
    leaves = Leaves(graph)
    book = LabelBook(
        labelling.canonical,
        graph.aliases,
        attention=wishes.attention,
        group_norm=wishes.group_norm,
        by_dims=labelling.by_dims,
        by_heads=labelling.by_heads,
        loose=labelling.loose,
        weights=leaves.weights,
    )
    values: dict[Edge, Value] = {}
    _one_pass(graph, leaves, book, holds_escapes=False, kept=values)
    return values
