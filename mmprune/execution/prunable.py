"""The tensors and reductions of a model that differ between subnets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, Statistic, axes_of, have_any, having_any
from mmprune.channels.propagate import Labelling
from mmprune.errors import InputError
from mmprune.trace import TraceGraph
from mmprune.trace.walk import buffers_of, places_of_modules


@dataclass(frozen=True)
class PrunableTensor:
    """A parameter or buffer that loses something in some subnet.

    Attributes:
        name: Its first dotted name.
        shape: Its full shape.
        factors: Its label arrays.
        owners: (module, local name) of every place that holds it.
        is_buffer: Whether it is a buffer.
        consumers: Names of the modules whose forward reads it.
        is_masked: Whether masked execution has to mask it, see ``channels.silence``.
        masked: Which of its label arrays it masks.
        is_updated: Whether a forward pass writes to it, perhaps by ways that cannot be seen.
    """

    name: str
    shape: tuple[int, ...]
    factors: list[IntArray]
    owners: list[tuple[nn.Module, str]]
    is_buffer: bool
    consumers: list[str]
    is_masked: bool
    masked: tuple[int, ...]
    is_updated: bool = False


def prunable_tensors(
    model: nn.Module, graph: TraceGraph, labelling: Labelling, prunable: BoolArray
) -> list[PrunableTensor]:
    """The tensors of ``model`` that have a prunable label, (num_labels,) bool.

    Raises:
        InputError: The trace has made modules that the model does not have yet.
    """
    modules = dict(places_of_modules(model))
    made = [name for name in labelling.tensors if name.rpartition('.')[0] not in modules]
    if made:
        raise InputError(f"'{made[0]}' is made by the first run: run the network once before")
    buffers = buffers_of(model).keys()
    consumers, updated = graph.consumers(), graph.updated()
    found = []
    every = [(name, factor) for name, own in labelling.tensors.items() for factor in own]
    shrinking = having_any(every, prunable)
    masked = labelling.masked | having_any(every, labelling.exposed)
    for name, factors in labelling.tensors.items():
        if name in shrinking:
            places = [place.rpartition('.') for place in graph.aliases.get(name, (name,))]
            found.append(
                PrunableTensor(
                    name=name,
                    shape=labelling.shapes[name],
                    factors=factors,
                    owners=[(modules[owner], local) for owner, _, local in places],
                    is_buffer=name in buffers,
                    consumers=consumers.get(name, []),
                    is_updated=name in updated,
                    masked=tuple(
                        place
                        for place, factor in enumerate(factors)
                        if (name, *axes_of(factor)) not in labelling.unmasked
                    ),
                    is_masked=name in buffers or name in masked,
                )
            )
    return found


def prunable_statistics(labelling: Labelling, prunable: BoolArray) -> list[Statistic]:
    """The reductions over channels some of which a subnet may drop, and others like them there."""
    statistics = labelling.statistics
    shrink = have_any([statistic.labels for statistic in statistics], prunable)
    alike = [(s.module, s.kind, s.dims, s.labels.shape) for s in statistics]
    wanted = {key for key, shrinks in zip(alike, shrink, strict=True) if shrinks}
    return [s for s, key in zip(statistics, alike, strict=True) if key in wanted]
