"""What a user asks by names: layers whose channels stay, layers that lose the same channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mmprune.channels.held import is_inside
from mmprune.channels.labels import IntArray, LabelBook
from mmprune.channels.leaves import Leaves
from mmprune.errors import InputError, nearest
from mmprune.trace.trace_graph import TraceGraph
from mmprune.trace.weights import PRODUCTS


def tie_layers(ties: Iterable[tuple[str, str]], book: LabelBook, graph: TraceGraph) -> None:
    """Unite the output channels of layers that the user has tied.

    A linear layer with H * W outputs for each channel of a convolution makes an image of them.

    Raises:
        InputError: A name is no layer's, or the layers differ in their number of channels.
    """
    for names in ties:
        found = [[s for s in book.sites if s.layer == n and s.role != 'in'] for n in names]
        for name, sites in zip(names, found, strict=True):
            if not sites:
                raise InputError(
                    f"cannot tie '{name}': no traced layer has this name; "
                    f'{nearest(name, list(_makers(book)))}'
                )
        few, many = sorted((sites[0] for sites in found), key=lambda site: len(site.labels))
        is_flat = graph.nodes[few.node].op == 'conv' and graph.nodes[many.node].op in PRODUCTS
        each, rest = divmod(len(many.labels), len(few.labels))
        if rest or (each > 1 and not is_flat):
            sizes = [len(sites[0].labels) for sites in found]
            raise InputError(
                f'cannot tie {names}: they have {sizes} output channels. Tie layers with equally '
                'many, or a convolution with a linear layer that has H * W outputs for each channel'
            )
        book.unite(many.labels.reshape(-1, each), few.labels[:, None])


def pin_layers(keys: Iterable[str], graph: TraceGraph, book: LabelBook, leaves: Leaves) -> None:
    """Keep the output channels of the layers that ``except_start_keys`` name.

    A key is the name of a layer, of a module that holds layers, or of a parameter:
    ``'stage1'`` stands for ``stage1`` and all in it, not for ``stage10``. A part of the network
    that the trace has not seen is not pruned in any case, so its name is taken.

    Raises:
        InputError: A key names nothing that makes channels.
    """
    for key in keys:
        name, reason = key.rstrip('.'), f"excluded by except_start_keys '{key}'"
        kept = list(_kept(name, graph, book, leaves))
        for labels in kept:
            book.pin(labels, reason)
        if not kept and not any(is_inside(parameter, name) for parameter in graph.unreached):
            raise InputError(f'except_start_keys: {_why_nothing(key, name, graph, book)}')


def pin_unwalked(unwalked: Mapping[str, int], graph: TraceGraph, book: LabelBook) -> None:
    """Keep what modules may read that no road has run: what others give, as wide as they read."""
    edges = {e for call in graph.calls for e in (*call.inputs, *call.outputs)} if unwalked else ()
    for name, width in unwalked.items():
        reason = f'{name}, which no road runs, may read them: give a road that does'
        for value in (book.values[edge] for edge in edges):
            for dim, size in enumerate(value.shape):
                for factor in value.along(dim) if size == width else ():
                    book.pin(factor, reason)


def pin_losses(first_stop: int, book: LabelBook) -> None:
    """Keep what a head gives that runs on later roads alone, and is summed up in a loss.

    Args:
        first_stop: How many nodes the first road has.
        book: What is known of the labels.
    """
    later = [factor for node, factor in book.scalars if node >= first_stop]
    if later:
        used = [s.labels for s in book.sites if s.role == 'in' or s.node < first_stop]
        known = np.concatenate([np.zeros(0, np.int64), *used])
        for factor in later:
            book.pin(factor[~np.isin(factor, known)], 'is given to a loss')


def _kept(name: str, graph: TraceGraph, book: LabelBook, leaves: Leaves) -> Iterator[IntArray]:
    """Labels that stay because of one key."""
    # The trace knows a parameter that several modules share by its first name only.
    shared = {
        first.rpartition('.')[0]
        for first, names in graph.aliases.items()
        if any(is_inside(each, name) for each in names)
    }
    for site in book.sites:
        if site.role != 'in' and (is_inside(site.layer, name) or site.layer in shared):
            yield site.labels
    for parameter in leaves.offsets:
        if name == parameter or name in graph.aliases.get(parameter, ()):
            yield from leaves.factors(parameter, book.canonical)


def _why_nothing(key: str, name: str, graph: TraceGraph, book: LabelBook) -> str:
    layers = list(_makers(book))
    if any(is_inside(call.module, name) for call in graph.calls):
        return f'{key!r} holds no layer that makes channels; {nearest(name, layers)}'
    parts = {layer: None for layer in layers}
    for layer in layers:
        pieces = layer.split('.')
        parts.update(dict.fromkeys('.'.join(pieces[:end]) for end in range(1, len(pieces))))
    return (
        f'{key!r} names no part of the network (a key stands for the module of that name and all '
        f'in it); {nearest(name, list(parts))}'
    )


def _makers(book: LabelBook) -> dict[str, None]:
    """Names of the layers that make channels, in order of execution."""
    return dict.fromkeys(site.layer for site in book.sites if site.role != 'in' and site.layer)
