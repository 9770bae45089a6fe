"""Layers that a user wants to be pruned together, or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from mmprune.channels.labels import LabelBook
from mmprune.errors import InputError
from mmprune.trace.trace_graph import TraceGraph
from mmprune.trace.weights import PRODUCTS


def tie(ties: Iterable[tuple[str, str]], book: LabelBook, graph: TraceGraph) -> None:
    """Unite the output channels of layers that the user has tied.

    A linear layer with H * W outputs for each channel of a convolution makes an image of them.
    """
    for names in ties:
        found = [[s for s in book.sites if s.layer == n and s.role != 'in'] for n in names]
        for name, sites in zip(names, found, strict=True):
            if not sites:
                raise InputError(f"cannot tie '{name}': no traced layer has this name")
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


def pin_layers(prefixes: Iterable[str], book: LabelBook) -> None:
    """Keep all outputs of the layers whose names begin so."""
    for prefix in prefixes:
        for site in book.sites:
            if site.role != 'in' and site.layer.startswith(prefix):
                book.pin(site.labels, f"excluded by except_start_keys '{prefix}'")
