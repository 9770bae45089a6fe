"""Graphs of several roads as one: what a later road has in common with earlier ones is there once.

Two nodes are one if they do the same in the same module with the same inputs. So a road through
training adds an auxiliary head and nothing else, and one that differs in numbers only (dropout,
statistics of the batch) adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmprune.trace.expressions import Computed, Dim
from mmprune.trace.trace_graph import Edge, ModuleCall, TraceGraph, TraceNode, WalkedRoad

# They scale elements one by one: dropout, stochastic depth. Channels that are 0 stay 0.
NOISE = frozenset({'NativeDropoutBackward', 'FusedDropoutBackward', 'MulBackward', 'DivBackward'})
LEAVES = ('parameter', 'input')
"""Operations of nodes that are one wherever they are used."""


Place = tuple[int, int | None]
"""A node, and which of its outputs all edges of another node are; None for the same one."""


def join(
    graph: TraceGraph, later: TraceGraph, road: WalkedRoad
) -> tuple[TraceGraph, dict[int, Place]]:
    """The graph of earlier roads with what a later one adds, and where its nodes are now.

    Args:
        graph: Of the earlier roads.
        later: Of the later one. Its nodes are numbered from ``len(graph.nodes)`` on; a number
            below is a node of ``graph``.
        road: What is known of the later one.
    """
    nodes, places = _placed(graph, later)

    def move(edge: Edge) -> Edge:
        return moved(edge, places)

    outputs = tuple(dict.fromkeys(move(edge) for edge in later.outputs))
    escapes = tuple((move(edge), reason) for edge, reason in later.escapes)
    calls = [_moved_call(call, move) for call in later.calls]
    start = len(graph.nodes)
    idle = _idle(graph, nodes)

    def says_nothing(edge: Edge) -> bool:
        return edge[0] in idle or edge in graph.outputs

    readings = tuple(
        replace(r, edge=move(r.edge), expression=_moved_number(r.expression, move))
        for r in later.readings
    )
    unreached = {name: why for name, why in graph.unreached.items() if name in later.unreached}
    seen, read = {*graph.escapes}, {*graph.readings}
    adds = (
        len(idle) < len(nodes)
        or any(not says_nothing(edge) for edge in outputs)
        or any(not says_nothing(edge) for edge, why in escapes if (edge, why) not in seen)
        or any(not says_nothing(r.edge) for r in readings if r not in read)
        or unreached != graph.unreached
    )
    if not adds:
        road = replace(road, stop=start, outputs=len(graph.outputs), adds=False)
        kept = {number: place for number, place in places.items() if place[0] < start}
        return replace(graph, roads=(*graph.roads, road)), kept
    known = set(graph.calls)
    whole = replace(
        graph,
        nodes=(*graph.nodes, *nodes),
        outputs=tuple(dict.fromkeys((*graph.outputs, *outputs))),
        parameters={**graph.parameters, **later.parameters},
        aliases={**graph.aliases, **later.aliases},
        unreached=unreached,
        calls=(*graph.calls, *(call for call in calls if call not in known)),
        escapes=(*graph.escapes, *(escape for escape in escapes if escape not in seen)),
        handed=tuple(dict.fromkeys((*graph.handed, *later.handed))),
        recomputing=tuple(dict.fromkeys((*graph.recomputing, *later.recomputing))),
        constants=tuple(dict.fromkeys((*graph.constants, *later.constants))),
        buffers=graph.buffers | later.buffers,
        types=graph.types | later.types,
        readings=tuple(dict.fromkeys((*graph.readings, *readings))),
        scales=_united(graph.scales, later.scales, move),
        layer_scales=_united(graph.layer_scales, later.layer_scales, move),
        equal=_united(graph.equal, later.equal, move),
    )
    road = replace(road, stop=len(whole.nodes), outputs=len(whole.outputs))
    opaque = opaque_operations(whole.nodes)
    return replace(whole, opaque=opaque, roads=(*graph.roads, road)), places


def moved(edge: Edge, places: Mapping[int, Place]) -> Edge:
    """Where an edge is; that of a node that is not listed is where it was."""
    number, output = places.get(edge[0], (edge[0], None))
    return number, edge[1] if output is None else output


def opaque_operations(nodes: tuple[TraceNode, ...]) -> dict[str, tuple[str, ...]]:
    """Autograd nodes without parser -> the modules that they ran in."""
    found: dict[str, dict[str, None]] = {}
    for node in nodes:
        if node.op == 'opaque':
            found.setdefault(node.source, {}).setdefault(node.module)
    return {source: tuple(modules) for source, modules in found.items()}


def _placed(graph: TraceGraph, later: TraceGraph) -> tuple[list[TraceNode], dict[int, Place]]:
    """The nodes that only ``later`` has, and where each of its nodes is."""
    start = len(graph.nodes)
    ran = {node.module for node in later.nodes}
    alike = (node for node in graph.nodes if node.op in LEAVES or node.module in ran)
    known = {_key(node, node.inputs): node.id for node in alike}
    places: dict[int, Place] = {}
    nodes: list[TraceNode] = []
    for node in later.nodes:
        inputs = tuple(None if edge is None else moved(edge, places) for edge in node.inputs)
        key = _key(node, inputs)
        if key not in known and _is_noise(node, inputs, graph, nodes):
            (places[node.id],) = (edge for edge in inputs if edge is not None)
            continue
        if key not in known:
            known[key] = start + len(nodes)
            nodes.append(replace(node, id=known[key], inputs=inputs))
        places[node.id] = (known[key], None)
    return nodes, places


def _key(node: TraceNode, inputs: tuple[Edge | None, ...]) -> Any:
    """What two nodes that are one have in common; statistics of norms are named once."""
    attrs = {name: value for name, value in node.attrs.items() if name != 'buffers'}
    if node.op in LEAVES:
        return node.op, node.shapes, _hashable(attrs)
    return node.op, node.source, node.module, inputs, node.shapes, _hashable(attrs)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _is_noise(
    node: TraceNode, inputs: tuple[Edge | None, ...], graph: TraceGraph, nodes: list[TraceNode]
) -> bool:
    """Whether a node scales a tensor by constants that are alike for all channels."""
    edges = [edge for edge in inputs if edge is not None]
    if node.source.rstrip('0123456789') not in NOISE or len(edges) != 1 or len(node.shapes) != 1:
        return False
    number, output = edges[0]
    start = len(graph.nodes)
    producer = graph.nodes[number] if number < start else nodes[number - start]
    if producer.shapes[output] != node.shapes[0] or producer.op == 'parameter':
        return False
    constants = (*node.attrs.get('constant_shapes', ()), *node.attrs.get('constants', {}).values())
    return all(max(shape[1:], default=1) == 1 for shape in constants)


def _idle(graph: TraceGraph, nodes: list[TraceNode]) -> set[int]:
    """New nodes that depend on outputs of earlier roads and constants alone: losses."""
    found: set[int] = set()
    settled = set(graph.outputs) | {(n.id, 0) for n in graph.nodes if n.op == 'input'}
    for node in nodes:
        edges = [edge for edge in node.inputs if edge is not None]
        is_leaf = node.op == 'input'
        if is_leaf or (edges and all(e in settled or e[0] in found for e in edges)):
            found.add(node.id)
    return found


def _moved_call(call: ModuleCall, move: Callable[[Edge], Edge]) -> ModuleCall:
    return replace(
        call,
        inputs=tuple(move(edge) for edge in call.inputs),
        outputs=tuple(move(edge) for edge in call.outputs),
    )


def _united(first: tuple, second: tuple, move: Callable[[Edge], Edge]) -> tuple:
    """Both, with the expressions of the second moved; names of modules stay."""
    moved_ones = (
        tuple(part if isinstance(part, str) else _moved_number(part, move) for part in entry)
        for entry in second
    )
    return tuple(dict.fromkeys((*first, *moved_ones)))


def _moved_number(expression: Any, move: Callable[[Edge], Edge]) -> Any:
    if isinstance(expression, Dim):
        return replace(expression, edge=move(expression.edge))
    if isinstance(expression, Computed):
        operands = tuple(_moved_number(operand, move) for operand in expression.operands)
        return replace(expression, operands=operands)
    return expression
