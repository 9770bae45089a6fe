"""The labels of every traced tensor, for whoever wants to know how large each is in a subnet."""

from __future__ import annotations

from mmprune.channels.labels import Value
from mmprune.channels.leaves import Leaves
from mmprune.channels.propagate import Labelling, Wishes, book_of, one_pass
from mmprune.trace.trace_graph import Edge, TraceGraph


def values_at_rest(graph: TraceGraph, labelling: Labelling, wishes: Wishes) -> dict[Edge, Value]:
    """One more pass over a graph whose labels have come to rest, with all of its tensors kept.

    Args:
        graph: The trace.
        labelling: What ``propagate`` has found for it.
        wishes: What it was found with.
    """
    leaves = Leaves(graph)
    book = book_of(graph, leaves, wishes, labelling.ways, labelling.canonical)
    one_pass(graph, leaves, book, holds_escapes=False, keeps_all=True)
    return book.values
