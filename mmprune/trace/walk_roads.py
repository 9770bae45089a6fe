"""Trace every road that a user takes through a model, into one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn

from mmprune.trace.joined import join
from mmprune.trace.known_calls import steady_parts
from mmprune.trace.model_state import Contents, ModelState
from mmprune.trace.operations import ParserError, check_operations
from mmprune.trace.roads import Road, roads_of
from mmprune.trace.trace_graph import Edge, TraceGraph, TraceNode, WalkedRoad
from mmprune.trace.tracer import Session, trace_road
from mmprune.trace.training import is_opaque_to_readers
from mmprune.trace.walk import modules_of
from mmprune.trace.weights import used_weights


def trace(
    model: nn.Module,
    demo_input: Any,
    contents: Contents | None = None,
    stored: Mapping[str, Any] | None = None,
) -> TraceGraph:
    """Trace a forward pass of ``model`` on every road; the model is left as it was.

    A road that does not run is noted with its problem, unless it is the first. A road through
    training is left out where nothing on the road before it asks for the mode: it has the same
    channels.

    Args:
        model: Any module.
        demo_input: What it is run on, see ``mmprune.trace.roads.roads_of``.
        contents: See ``untouched``.
        stored: Numbers that modules store, by module and attribute, to follow where they are
            used.

    Raises:
        TraceError: The model fails on the first road, or returns no tensor there that
            depends on a parameter.
        ParserError: A parser failed, or gave what its operation does not have.
    """
    first, *rest = roads_of(model, demo_input)
    with torch.inference_mode(False):
        state = ModelState(model, {} if contents is None else contents)
    session = Session(state, stored or {})
    graph = trace_road(model, first, session)
    _check(graph)
    single = _has_single_values(graph.nodes)
    graph = _noted(graph, first, adds=True, needs_two=single)
    session.known = {grad_fn: (number, None) for number, grad_fn in enumerate(session.order)}
    session.makers = {n: (grad_fn, session.recipe) for n, grad_fn in enumerate(session.order)}
    if is_opaque_to_readers(model):
        session.readers |= set(modules_of(model).values())
    walked = [first]
    for road in rest:
        session.reached, session.stop = set(graph.parameters), len(graph.nodes)
        session.calls.steady = steady_parts(model, session.readers)
        if _is_like_eval(road, walked, session):
            graph = _noted(graph, road, needs_two=single)
            continue
        try:
            later = trace_road(model, road, session)
            _check(later, graph.nodes)
        except ParserError:
            raise
        except Exception as error:  # whatever a model raises on a road that may never be taken
            graph = _noted(graph, road, problem=_told(error))
            continue
        walked.append(road)
        single = single or _has_single_values(later.nodes)
        graph = _joined(graph, later, road, session, single)
    return graph


def _check(graph: TraceGraph, before: tuple[TraceNode, ...] = ()) -> None:
    """Compare a road's nodes, which are numbered after those ``before``, with the table."""
    start = len(before)

    def shape_of(edge: Edge) -> tuple[int, ...]:
        number, output = edge
        node = before[number] if number < start else graph.nodes[number - start]
        return node.shapes[output]

    check_operations(graph.nodes, shape_of)


def _joined(
    graph: TraceGraph, later: TraceGraph, road: Road, session: Session, single: bool
) -> TraceGraph:
    needs_two = road.training and single
    note = WalkedRoad(road.name, road.training, 0, 0, needs_two=needs_two)
    start = len(graph.nodes)
    graph, places = join(graph, later, note)
    for number, grad_fn in enumerate(session.order):
        if start + number in places:
            place = session.known[grad_fn] = places[start + number]
            session.makers.setdefault(place[0], (grad_fn, session.recipe))
    if len(graph.nodes) > start:
        weights = used_weights(graph.nodes, graph.buffers, session.recipe_of)
        graph = replace(graph, weights=weights)
    return graph


def _noted(
    graph: TraceGraph,
    road: Road,
    adds: bool = False,
    needs_two: bool = False,
    problem: str = '',
) -> TraceGraph:
    """The graph with a road whose nodes it has."""
    stop, outputs = len(graph.nodes), len(graph.outputs)
    needs_two = needs_two and road.training
    note = WalkedRoad(road.name, road.training, stop, outputs, adds, needs_two, problem)
    return replace(graph, roads=(*graph.roads, note))


def _told(error: Exception) -> str:
    """How a road failed, in one line."""
    cause = error.__cause__ or error
    message = ' '.join(str(cause).split())
    return f'{type(cause).__name__}: {message[:200]}'


def _is_like_eval(road: Road, walked: list[Road], session: Session) -> bool:
    """Whether a road through training is one that was walked in eval mode, where nobody asked."""
    return (
        road.training
        and not session.readers
        and any(other.input is road.input and other.pack is road.pack for other in walked)
    )


def _has_single_values(nodes: tuple[TraceNode, ...]) -> bool:
    """Whether a batch norm has one value per channel."""
    return any(
        node.op == 'batch_norm' and prod(node.shapes[0]) == node.shapes[0][1] for node in nodes
    )
