"""Carry labels through a traced network until they say nothing new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from mmprune.channels.arrangement import Arrangement
from mmprune.channels.checked_sizes import CheckedSize, not_dealt
from mmprune.channels.constraints import BoolArray
from mmprune.channels.guarded import apply_rule
from mmprune.channels.held import hold_broken
from mmprune.channels.labels import (
    EqualCounts,
    IntArray,
    LabelBook,
    Product,
    Site,
    Size,
    Statistic,
    Value,
    Ways,
    axes_of,
    pin_all,
)
from mmprune.channels.leaves import Leaves, united
from mmprune.channels.meet import MAY_BE_JOINED, unjoined
from mmprune.channels.readings import ReadNumbers, edges_of, read_numbers
from mmprune.channels.shuffled import arrange, shuffles_of
from mmprune.channels.silence import Silence
from mmprune.channels.sizes import Numbers, Shrinking, SizeAttribute, unread_attributes
from mmprune.channels.ways import other_ways, pinned_by_reason, with_first_reasons
from mmprune.channels.wished import pin_layers, pin_losses, pin_unwalked, tie_layers
from mmprune.registry import CHANNEL_RULES, table
from mmprune.trace.trace_graph import ComputedWeight, Edge, TraceGraph, TraceNode

MAX_PASSES = 20

ESCAPES = ('', 'escapes')
"""Key of ``Wishes.broken``: what is used outside of the autograd graph stays."""
ORDERS = ('', 'orders')
"""Key of ``Wishes.broken``: kept channels stand in the order that they have in full."""
# Operations with 1-D weights; their running statistics are no constants but buffers.
WITH_WEIGHTS = ('conv', 'batch_norm', 'layer_norm', 'group_norm')

BY_NUMBER = frozenset(
    {'view', 'expand', 'split', 'slice', 'pad', 'repeat', 'unbind', 'cat', 'layer_norm'}
)
"""Operations that are given sizes as numbers, which the module may have stored."""


@dataclass(frozen=True)
class Labelling:
    """What is known about the channels of a network when labels have come to rest.

    Attributes:
        tensors: Parameter or buffer name -> its label arrays, of the tensor's rank.
        shapes: Parameter or buffer name -> its shape.
        sites: Labels along the channels of layers, in order of execution.
        products: Multiply-adds of convolutions and matrix products, as counts of labels.
        sizes: Dims that shrink, with the modules that may know their size by number.
        size_attributes: Numbers of modules that are such sizes.
        checked: Numbers of operations that must be sizes in every subnet, see ``misread``.
        unknown_sizes: Dims that shrink, and were given a number of unknown origin.
        quantities: Numbers of modules that are sizes and are used as quantities too.
        statistics: Reductions over channels.
        constraints: Blocks of labels that keep equally many.
        pins: (labels, reason) of channels that stay.
        num_labels: How many labels there are, united ones counted apart.
        has_escapes: Whether values are used outside of the autograd graph.
        masked: Parameters that masked execution always masks, see ``silence``.
        unmasked: (parameter, dim) along which it never does, see ``LabelBook``.
        exposed: Labels all of whose tensors it masks, (num_labels,) bool.
        canonical: Every label of a parameter position -> the one that stands for it.
        ways: What the last pass went by.
        arrangements: What is shuffled, and stands in another order in a subnet.
        computed: Weights that are functions of parameters, with their label arrays.
        hidden: Parameters that layers use through those alone.
        outputs: (module, labels of what it puts out) of every call on the first road.
    """

    tensors: Mapping[str, list[IntArray]]
    shapes: Mapping[str, tuple[int, ...]]
    sites: list[Site]
    products: list[Product]
    sizes: list[Size]
    size_attributes: list[SizeAttribute]
    checked: list[CheckedSize]
    unknown_sizes: list[Size]
    quantities: list[SizeAttribute]
    statistics: list[Statistic]
    constraints: list[EqualCounts]
    pins: list[tuple[IntArray, str]]
    num_labels: int
    has_escapes: bool = False
    masked: frozenset[str] = frozenset()
    unmasked: frozenset[tuple[str | int, ...]] = frozenset()
    exposed: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    canonical: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    ways: Ways = field(default_factory=Ways)
    arrangements: tuple[Arrangement, ...] = ()
    computed: list[tuple[ComputedWeight, list[IntArray]]] = field(default_factory=list)
    hidden: frozenset[str] = frozenset()
    outputs: list[tuple[str, list[Value]]] = field(default_factory=list)


@dataclass(frozen=True)
class Wishes:
    """What a user asks of the labelling, and what earlier tries have taught.

    Attributes:
        pinned_layers: Layers, or modules that hold layers, whose output channels stay.
        ties: Pairs of layers whose output channels are pruned together.
        attention: ``'heads'`` removes whole heads where that is possible, ``'dims'`` equally
            many channels of every head.
        group_norm: ``'groups'`` removes whole groups of a GroupNorm, ``'channels'`` equally many
            channels of every group.
        numbers: Stored numbers of modules that may be sizes of channels.
        held: Numbers (by their place in the trace) that were wrong in some subnet, and how often.
        broken: What is held because a trial has failed, and why. Keys are the name of a module
            and what stays: ``'unknown'`` (the dims that it was given numbers of unknown origin
            for), ``'own'`` (those that it cuts or views), ``'passed'`` (those that pass through
            it), ``'inside'`` (those that the modules directly in it are given and give) or
            ``'layers'`` (all that its parameters have).
        unwalked: Modules that no road has run -> how many channels each reads. What has so many
            stays.
        torchs_heads: Number of heads of torch's own attention modules; several can only go whole.
    """

    pinned_layers: tuple[str, ...] = ()
    ties: tuple[tuple[str, str], ...] = ()
    attention: str = 'heads'
    group_norm: str = 'channels'
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    held: Mapping[int, int] = field(default_factory=dict)
    broken: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unwalked: Mapping[str, int] = field(default_factory=dict)
    torchs_heads: Mapping[str, int] = field(default_factory=dict)


def propagate(graph: TraceGraph, wishes: Wishes = Wishes()) -> Labelling:
    """Label every channel of every parameter and carry the labels through the graph.

    One pass visits every node once, in topological order. Rules unite labels on the way;
    the next pass starts from the united ones, and the last pass is the one that unites
    nothing more. The first one is a draft: it unites something in any network. What the last
    pass pins and constrains is the result. Where heads turn out to be
    pinned, their channels are labelled once more, to be pruned by dims; and the other way.
    """
    leaves = Leaves(graph)
    loose = frozenset() if ORDERS in wishes.broken else shuffles_of(graph)
    torchs = {name for name, heads in wishes.torchs_heads.items() if heads > 1}
    by_heads = frozenset(node.id for node in graph.nodes if node.module in torchs)
    ways = Ways(by_heads=by_heads, loose=loose)
    before: dict[str, BoolArray] = {}
    for tries in count():
        rest = _to_rest(graph, leaves, wishes, ways)
        changed = other_ways(rest.book, leaves.num_labels, tries)
        if changed is not None:
            ways = changed
            before = {**pinned_by_reason(rest.book, rest.canonical), **before}
            continue
        book = rest.book
        tensors = {n: leaves.factors(n, rest.canonical, squeeze=False) for n in leaves.offsets}
        tensors.update(_buffers(graph, book))
        unread = unread_attributes(rest.sizes, wishes.numbers, rest.numbers.read, book)
        if not ways.loose:
            arrangements: list[Arrangement] = []
            break
        arrangements, failed = arrange(
            graph, book, rest.values, tensors, ways.loose, rest.own_constraints
        )
        if not failed:
            break
        ways = replace(ways, loose=ways.loose - failed)
    extra = {n: (len(f[0].ravel()),) for n, f in tensors.items() if n not in leaves.shapes}
    return Labelling(
        tensors=tensors,
        shapes={**leaves.shapes, **extra},
        sites=book.sites,
        products=book.products,
        sizes=book.sizes,
        size_attributes=[*rest.numbers.attributes, *unread],
        checked=not_dealt(rest.numbers.checked, arrangements, leaves.num_labels),
        unknown_sizes=rest.numbers.unknown,
        quantities=rest.numbers.quantities,
        statistics=[*book.statistics, *_widths_of_one_head(wishes.torchs_heads, tensors)],
        constraints=book.constraints,
        pins=with_first_reasons(book.pins, before, rest.canonical),
        num_labels=leaves.num_labels,
        has_escapes=bool(graph.escapes),
        masked=frozenset(rest.silence.masked),
        unmasked=frozenset[tuple[str | int, ...]](book.unmasked)
        | {(n, *axes_of(f)) for n in rest.silence.divisors for f in tensors[n]},
        exposed=rest.silence.exposed_labels(leaves.num_labels),
        canonical=rest.canonical,
        ways=ways,
        arrangements=tuple(arrangements),
        computed=[(w, book.computed[w.edge].factors) for w in graph.weights.computed],
        hidden=graph.weights.hidden,
        outputs=[
            (call.module, [rest.values[edge] for edge in call.outputs])
            for call in graph.first_road().calls
        ],
    )


@dataclass(frozen=True)
class _Rest:
    """The last pass: its book, the united labels, what masks need, all tensors if any are loose.

    The first ``own_constraints`` of the book come from operations.
    """

    book: LabelBook
    canonical: IntArray
    silence: Silence
    values: dict[Edge, Value]
    own_constraints: int
    numbers: ReadNumbers
    sizes: list[Size]


def book_of(
    graph: TraceGraph, leaves: Leaves, wishes: Wishes, ways: Ways, canonical: IntArray
) -> LabelBook:
    """The empty book that a pass begins with, for labels that were united so far."""
    return LabelBook(
        canonical,
        graph.aliases,
        attention=wishes.attention,
        group_norm=wishes.group_norm,
        ways=ways,
        weights=leaves.weights,
        of_buffers=leaves.of_buffers(canonical),
        widths=leaves.widths_of(canonical),
    )


def _to_rest(graph: TraceGraph, leaves: Leaves, wishes: Wishes, ways: Ways) -> _Rest:
    """Pass over the graph until labels come to rest."""
    canonical = np.arange(leaves.num_labels)
    # What leaves the graph meets parameters that the graph does not show, if there are any.
    # Otherwise only a trial tells whether it matters which channels it had.
    holds_escapes = bool(graph.unreached) or ESCAPES in wishes.broken
    heads: list[tuple[int, IntArray]] = []
    dims: list[tuple[int, IntArray]] = []
    for number in range(MAX_PASSES):
        book = book_of(graph, leaves, wishes, ways, canonical)
        book.is_draft = number == 0
        book.heads = [(node, united(labels, canonical)) for node, labels in heads]
        book.dims = [(node, united(labels, canonical)) for node, labels in dims]
        silence = one_pass(graph, leaves, book, holds_escapes, keeps_all=bool(ways.loose))
        tie_layers(wishes.ties, book, graph)
        canonical, changed = book.merged()
        heads, dims = book.heads, book.dims
        if not (changed or book.is_draft):
            own_constraints = len(book.constraints)
            for constraint in book.constraints:
                if constraint.is_rigid:
                    book.pin(constraint.rows, constraint.reason)
            book.pin(np.flatnonzero(book.of_buffers), 'a place in a buffer, which no parameter has')
            sizes = [
                s
                for s in book.sizes
                if not s.factors or not all(map(book.is_in_buffers, s.factors))
            ]
            book.sizes = list(filter(Shrinking(book.constraints), sizes))
            pin_layers(wishes.pinned_layers, graph, book, leaves)
            pin_unwalked(wishes.unwalked, graph, book)
            numbers = read_numbers(graph, book.values, book, wishes.numbers, wishes.held)
            hold_broken(wishes.broken, book, leaves, numbers.unknown)
            return _Rest(book, canonical, silence, book.values, own_constraints, numbers, sizes)
    raise RuntimeError(
        f'the channel labels of this network do not come to rest in {MAX_PASSES} passes; '
        'please report the network'
    )


def one_pass(
    graph: TraceGraph,
    leaves: Leaves,
    book: LabelBook,
    holds_escapes: bool,
    keeps_all: bool = False,
) -> Silence:
    """Visit every node; ``book.values`` gets the labels of tensors, most of which go after use."""
    rules, silence = table(CHANNEL_RULES), Silence()
    values = book.values
    uses = _use_counts(graph)
    computed = {weight.edge for weight in graph.weights.computed}
    network_input = book.fixed('is an input of the network')
    for node in graph.nodes:
        if node.op == 'parameter':
            name = node.attrs['name']
            factors = leaves.factors(name, book.canonical, squeeze=not book.is_draft)
            alone = book.fixed(f'needs all channels of {name} at once')
            outputs = [Value(node.shapes[0], factors, alone, name)]
            for factor in factors if name in leaves.groups else ():
                if len(axes_of(factor)) > 1:
                    book.mark_ragged(factor, 1)
        elif node.op == 'input':
            outputs = [Value(node.shapes[0], [], network_input)]
        else:
            inputs = [None if edge is None else values[edge] for edge in node.inputs]
            book.node, book.module = node.id, node.module
            outputs = _apply(node, inputs, rules, book)
            if not book.is_draft:
                silence.visit(node, inputs, outputs)
        for index, value in enumerate(outputs):
            values[node.id, index] = value
            if (node.id, index) in computed:
                book.computed[node.id, index] = value
            if node.op in BY_NUMBER:
                book.add_sizes(node.module, value, own=True, is_weight=node.id in book.weights)
        for edge in node.inputs:
            if edge is not None:
                uses[edge] -= 1
                if not uses[edge] and not keeps_all:
                    del values[edge]
    # Subnets cost what they do on the first road.
    book.products = [p for p in book.products if p.node < graph.first_stop]
    for edge in graph.outputs:
        pin_all([values[edge]], book, 'output of the network')
    pin_losses(graph.first_stop, book)
    for edge, reason in graph.escapes:
        silence.expose([values[edge]])
        if holds_escapes:
            pin_all([values[edge]], book, reason)
    for call in graph.calls:
        if book.is_draft and not call.is_unreached:
            continue
        edges = [values[edge] for edge in (*call.inputs, *call.outputs)]
        for value in edges:
            book.add_sizes(call.module, value, own=False)
        if call.is_unreached:
            pin_all(edges, book, f'the graph does not reach the parameters of {call.module}')
    return silence


def _use_counts(graph: TraceGraph) -> dict[Edge, int]:
    """How often every edge is read; edges that are asked for later count once more."""
    uses: dict[Edge, int] = {}
    escapes = [edge for edge, _ in graph.escapes]
    numbers = edges_of(graph)
    kept = [*graph.outputs, *escapes, *numbers]
    kept += [e for c in graph.calls for e in (*c.inputs, *c.outputs)]
    for edge in [e for node in graph.nodes for e in node.inputs] + kept:
        if edge is not None:
            uses[edge] = uses.get(edge, 0) + 1
    return uses


def _apply(
    node: TraceNode, inputs: list[Value | None], rules: Mapping, book: LabelBook
) -> list[Value]:
    rule = rules.get(node.op)
    if node.op not in MAY_BE_JOINED:
        for value in inputs:
            if value is not None and len(value.factors) > 1:
                value.factors = unjoined(value.factors, book, node.where)
    if rule is None:
        unknown = f'{node.source}, which mmprune does not know, in {node.module or "the root"}'
        pin_all(inputs, book, f'goes through {unknown}')
        fixed = book.fixed(f'comes from {unknown}')
        return [Value(shape, [], fixed) for shape in node.shapes]
    outputs = apply_rule(rule, node, inputs, book)
    weights = [shape for shape in node.attrs.get('constant_shapes', ()) if len(shape) == 1]
    if node.op in WITH_WEIGHTS and len(weights) > len(node.attrs.get('buffers', ())):
        pin_all(outputs, book, f'{node.where} has a weight that is a constant')
    return outputs


def _widths_of_one_head(
    torchs_heads: Mapping[str, int], tensors: Mapping[str, list[IntArray]]
) -> list[Statistic]:
    """Where torch's own attention has one head, it scales by the kept channels of the queries."""
    found = []
    for module in [name for name, heads in torchs_heads.items() if heads == 1]:
        prefix = f'{module}.' if module else ''
        for local, parts in (('in_proj_bias', 3), ('in_proj_weight', 3), ('q_proj_weight', 1)):
            names = [prefix + local, f'{prefix}{local}_orig']
            rows = [f.ravel() for n in names for f in tensors.get(n, ()) if axes_of(f) == (0,)]
            found += [Statistic(module, 'one_head', (), r[: len(r) // parts]) for r in rows]
    return found


def _buffers(graph: TraceGraph, book: LabelBook) -> dict[str, list[IntArray]]:
    """Running statistics carry the labels of the norm that keeps them."""
    found = {}
    labels = {site.node: site.labels for site in book.sites if site.role == 'norm'}
    for node in graph.nodes:
        for name in node.attrs.get('buffers', ()):
            if node.id in labels:
                found[name] = [labels[node.id]]
    return found
