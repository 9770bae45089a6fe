"""Widths that the hardware likes: where a wider layer takes no longer than a narrower one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mmprune.latency.shapes import LayerShape
from mmprune.latency.table import LatencyTable
from mmprune.latency.timing import interleaved

MULTIPLES = (2, 4, 8, 16, 32)
SPAN = 32
"""So many neighbouring widths of each layer are measured: a multiple of all multiples."""
FREE = 1.01
"""Rounding up to a multiple is free if the layers take no more than this many times as long."""


@dataclass(frozen=True)
class WidthTimes:
    """Times of one layer at neighbouring widths.

    Attributes:
        shape: The layer at full width.
        axis: Which of its widths varies: 0 for the inputs, 1 for the outputs.
        widths: The widths that were measured, in order, without a gap.
        seconds: The time of the fastest round of each width: neighbours differ by less than
            whatever else the machine does adds to the others.
    """

    shape: LayerShape
    axis: int
    widths: tuple[int, ...]
    seconds: tuple[float, ...]

    def rounded_up(self, multiple: int) -> np.ndarray:
        """Time at the next multiple over the time at each width, (widths,).

        A width that has no multiple above it, below the full one, is rounded to the last
        that was measured: a pruner's ``round_to`` keeps all channels there.
        """
        times = dict(zip(self.widths, self.seconds, strict=True))
        up = [min(-(-width // multiple) * multiple, self.widths[-1]) for width in self.widths]
        return np.array([times[to] for to in up]) / np.array(self.seconds)


@dataclass(frozen=True)
class RoundingReport:
    """What rounding widths up costs on a device.

    Attributes:
        layers: The layers that were measured.
        multiples: The multiples in question.
    """

    layers: tuple[WidthTimes, ...]
    multiples: tuple[int, ...] = MULTIPLES

    def cost(self, multiple: int) -> float:
        """Mean over layers and widths of the time after rounding over that before."""
        return float(np.mean([layer.rounded_up(multiple).mean() for layer in self.layers]))

    @property
    def suggestion(self) -> int:
        """The largest multiple that is free; 1 if none is."""
        free = [multiple for multiple in self.multiples if self.cost(multiple) <= FREE]
        return max(free, default=1)


def heaviest(table: LatencyTable, count: int) -> list[tuple[LayerShape, int]]:
    """The layers in which a network spends most time, with the axis that can be pruned.

    Args:
        table: Times of the network's layers.
        count: How many layers.
    """
    calls = np.bincount([number for _, number in table.calls], minlength=len(table.layers))
    total = [
        times * float(layer.seconds.max()) for layer, times in zip(table.layers, calls, strict=True)
    ]
    found = []
    for number in np.argsort(total)[::-1]:
        layer = table.layers[number]
        axes = [axis for axis, points in enumerate(layer.grid) if len(points) > 1]
        if axes and 'Norm' not in layer.shape.kind:
            found.append((layer.shape, axes[-1]))
    return found[:count]


def measure_rounding(
    shapes: Iterable[tuple[LayerShape, int]],
    device: torch.device | str = 'cpu',
    seconds: float = 1.0,
) -> RoundingReport:
    """Time layers at neighbouring widths, around the middle of what they can have.

    Args:
        shapes: Layers, and which of their widths varies.
        device: Where to measure.
        seconds: How long each layer is measured.
    """
    layers = []
    for shape, axis in shapes:
        widths = neighbours(shape.full_widths[axis], shape.multiple)
        calls = {}
        for width in widths:
            each = tuple(width if a == axis else full for a, full in enumerate(shape.full_widths))
            module, data = shape.build(each).to(device), shape.example(each).to(device)
            calls[str(width)] = partial(module, data)
        with torch.no_grad():
            times = interleaved(calls, seconds, device, least_rounds=5)
        fastest = tuple(times[str(width)].fastest for width in widths)
        layers.append(WidthTimes(shape, axis, tuple(widths), fastest))
    return RoundingReport(tuple(layers))


def neighbours(full: int, step: int = 1) -> list[int]:
    """``SPAN`` widths from the middle of a layer's on, that it can have, or all of them."""
    start = min(full // 2 // SPAN * SPAN, max(0, full - SPAN))
    return list(range(start + step, min(start + SPAN, full) + 1, step))


def rounding_rows(report: RoundingReport) -> list[Mapping[str, object]]:
    """The report as plain data, a row per layer."""
    return [
        {
            'layer': str(layer.shape),
            'varies': ('inputs', 'outputs')[layer.axis],
            'widths': list(layer.widths),
            'milliseconds': [round(1e3 * each, 6) for each in layer.seconds],
            'rounded_up': {
                m: round(float(layer.rounded_up(m).mean()), 4) for m in report.multiples
            },
        }
        for layer in report.layers
    ]
