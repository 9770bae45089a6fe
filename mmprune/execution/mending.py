"""The attributes of modules that follow the widths of a subnet, set where they change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from mmprune.execution.instrument import Instrument
from mmprune.execution.lookup import Kept
from mmprune.execution.swap import Swap
from mmprune.layers import Cut, Slicer, weight_shape
from mmprune.trace.stored import store, stored

Values = Mapping[str, Any]
"""Attribute -> value."""
REMEMBERED = 64
"""Combinations of widths of one layer whose attributes are remembered."""


class Attributes:
    """Sets attributes of modules for a while, and keeps the modules' own.

    Args:
        modules: The modules by name.
        states: Their instruments, which remember the modules' own values.
    """

    def __init__(self, modules: Mapping[str, nn.Module], states: Mapping[str, Instrument]) -> None:
        self.modules = modules
        self.states = states
        self._now: dict[str, Values] = {}

    def set(self, wanted: Mapping[str, Values]) -> None:
        """Let these modules have these attributes, and all others their own."""
        for name in [name for name in self._now if name not in wanted]:
            self.own(name)
        for name, values in wanted.items():
            before = self._now.get(name)
            if before is values:
                continue
            module = self.modules[name]
            if before is None or before.keys() != values.keys():
                self.own(name)
                own = {attribute: stored(module, attribute) for attribute in values}
                self.states[name].attributes = own
            self._now[name] = values
            store(module, values)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Context after which the modules have the attributes that they have now."""
        before = dict(self._now)
        try:
            yield
        finally:
            self.set(before)

    def own(self, name: str) -> nn.Module:
        """A module, which has its own attributes again."""
        module = self.modules[name]
        if self._now.pop(name, None) is not None:
            store(module, self.states[name].attributes)
            self.states[name].attributes = {}
        return module


@dataclass(frozen=True)
class Mend:
    """One layer whose attributes follow the sizes of its tensors.

    Attributes:
        name: The layer.
        slicer: Says which attributes.
        swaps: Its tensors that a subnet changes, by local name.
        shapes: Full shapes of all its tensors.
        outputs: Where to look up the channels that it makes.
        inputs: Where to look up those that it reads, of a layer whose weight is computed.
        decides: Where to look up the numbers of channels that decide about the attributes; None
            if numbers are not enough.
        known: The attributes by those numbers: a search comes back to the same few.
    """

    name: str
    slicer: Slicer
    swaps: Mapping[str, Swap]
    shapes: Mapping[str, tuple[int, ...]]
    outputs: int | None
    inputs: int | None
    decides: tuple[int, ...] | None
    known: dict[tuple[int, ...], Values] = field(default_factory=dict)

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """Where to look up the channels of its sides."""
        return tuple(side for side in (self.outputs, self.inputs) if side is not None)

    def values(self, found: Kept, attributes: Attributes, cuts: Mapping[Swap, Cut]) -> Values:
        """The attributes in a subnet whose tensors are cut so; none if it changes nothing."""
        if self.decides is None:
            return self._ask(found, attributes, cuts)
        counts = found.counts
        key = tuple([counts[number] for number in self.decides])
        values = self.known.get(key)
        if values is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            values = self.known[key] = self._ask(found, attributes, cuts)
        return values

    def _ask(self, found: Kept, attributes: Attributes, cuts: Mapping[Swap, Cut]) -> Values:
        shapes = {name: cuts[swap].shape for name, swap in self.swaps.items() if swap in cuts}
        if not shapes and all(map(found.is_whole, self.sides)):
            return {}
        module = attributes.own(self.name)  # a slicer wants to see the full sizes
        channels = None if self.outputs is None else found.counts[self.outputs]
        if self.inputs is not None and channels is not None:
            inputs = found.counts[self.inputs]
            shapes = {**shapes, 'weight': weight_shape(module, inputs, channels)}
        return self.slicer(module, {**self.shapes, **shapes}, channels)
