"""Measuring the layers of a network at several widths."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from itertools import product, zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.collector import collector_waits
from mmprune.latency.device import Device
from mmprune.latency.estimator import Prepared, data_of, layer_forms, widths_of_groups
from mmprune.latency.shapes import LayerShape, layer_calls
from mmprune.latency.table import LatencyTable, MeasuredLayer
from mmprune.latency.timing import seconds_of

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Shares of a layer's full width that are measured, of its inputs and of its outputs."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 50
SECONDS_PER_POINT = 0.1
"""How long the layers together are timed at each of their points, rounds allowing."""


def build_table(
    plain: nn.Module,
    network: Prepared,
    run: Callable[[nn.Module], Any],
    device: torch.device | str = 'cpu',
    shares: Sequence[float] = SHARES,
    track: Callable[[Iterable[int], int], Iterable[int]] = lambda steps, total: steps,
) -> LatencyTable:
    """Time every distinct layer of a network at all combinations of some widths.

    The layers take turns in the order of the network, so that each finds the caches about
    as full as there; an input is written right before it is read.

    Args:
        plain: The network at full width, without patches, on the device, in eval mode.
        network: The prepared network.
        run: Runs the network on its demo input.
        device: Where to measure.
        shares: Which widths.
        track: Wraps the steps of the measurement for a progress bar.
    """
    like = next(plain.parameters()).to(device)
    calls = layer_calls(plain, network.layers, run)
    varies: dict[LayerShape, list[bool]] = {}
    for name, shape in calls:
        moves = [bool(form.coefficients) for form in layer_forms(network, name)]
        seen = varies.setdefault(shape, [False] * len(shape.full_widths))
        for axis in range(len(seen)):
            seen[axis] |= moves[axis]
    grids = {shape: _grid(shape, moving, shares) for shape, moving in varies.items()}
    points = [list(product(*grid)) for grid in grids.values()]
    steps = list(zip_longest(*points))
    found: dict[LayerShape, list[float]] = {shape: [] for shape in grids}
    gc.collect()
    with collector_waits():
        for number in track(range(len(steps)), len(steps)):
            times = _time(list(grids), steps[number], like)
            for shape, seconds in zip(grids, times, strict=True):
                if seconds is not None:
                    found[shape].append(seconds)
    fastest = {shape: (1e3 * np.array(each)).round(6) for shape, each in found.items()}
    layers = [
        MeasuredLayer(str(shape), shape, grid, fastest[shape].reshape([*map(len, grid)]).tolist())
        for shape, grid in grids.items()
    ]
    place = {shape: number for number, shape in enumerate(grids)}
    return LatencyTable(
        device=Device.of(device),
        network=type(plain).__name__,
        input=data_of(network.demo_input),
        groups=widths_of_groups(network),
        calls=[(name, place[shape]) for name, shape in calls],
        layers=layers,
    )


def _grid(
    shape: LayerShape, varies: Sequence[bool], shares: Sequence[float]
) -> tuple[tuple[int, ...], ...]:
    """The widths to measure along each axis; one that never shrinks has a single one."""
    grid = []
    for full, moves in zip(shape.full_widths, varies, strict=True):
        step = shape.multiple
        widths = {max(step, round(full * share / step) * step) for share in shares}
        grid.append(tuple(sorted(widths)) if moves else (full,))
    return tuple(grid)


def _time(
    shapes: Sequence[LayerShape],
    widths: Sequence[tuple[int, ...] | None],
    like: torch.Tensor,
) -> list[float | None]:
    """Seconds of each layer at its widths, of the fastest round; None where there are none.

    The layers are in the type and on the device of ``like``.
    """
    modules = [
        None if each is None else shape.build(each).to(like)
        for shape, each in zip(shapes, widths, strict=True)
    ]
    examples = [
        None if each is None else shape.example(each).to(like)
        for shape, each in zip(shapes, widths, strict=True)
    ]
    rounds: list[list[float]] = [[] for _ in shapes]
    with torch.no_grad():
        while True:
            for number, (module, example) in enumerate(zip(modules, examples, strict=True)):
                if module is not None and example is not None:
                    rounds[number].append(_once(module, example, like.device))
            done = max(len(each) for each in rounds)
            # The first round warms up.
            total = sum(sum(each[1:]) for each in rounds)
            if done > MOST_ROUNDS or (done > LEAST_ROUNDS and total > SECONDS_PER_POINT):
                return [min(each[1:]) if each else None for each in rounds]


def _once(module: nn.Module, example: torch.Tensor, device: torch.device | str) -> float:
    data = example.clone()
    return seconds_of(lambda: module(data), device)
