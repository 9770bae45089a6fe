"""Times of layers by width, on one device, in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator

from mmprune.datafiles import read_data, write_data
from mmprune.errors import InputError
from mmprune.latency.device import Device
from mmprune.latency.shapes import LayerShape
from mmprune.schema import Amount, Count, Whole, checked

FORMAT: Final = 'mmprune latency table 1'


class LatencyError(InputError):
    """A latency table that is broken, or of another device or network."""


@dataclass(frozen=True)
class MeasuredLayer:
    """Times of one layer.

    Attributes:
        about: The layer in words, for people who read the file.
        shape: The layer at full width.
        grid: The widths that were measured, per axis: inputs and outputs, or only inputs.
        milliseconds: Time of the fastest round at every point of the grid, of the grid's shape.
    """

    about: str
    shape: LayerShape
    grid: tuple[tuple[Count, ...], ...]
    milliseconds: list[Amount] | list[list[Amount]]

    def __post_init__(self) -> None:
        times = self.seconds
        if times.shape != tuple(map(len, self.grid)) or times.ndim != len(self.shape.full_widths):
            raise ValueError(f'times of shape {times.shape} for {self.grid}')
        try:
            with torch.device('meta'):
                self.shape.build(self.shape.full_widths)
            str(self.shape)
        except (TypeError, LookupError, RuntimeError) as error:
            raise ValueError(f'no {self.shape.kind} is made of {self.shape.options}') from error
        if any(list(points) != sorted(set(points)) for points in self.grid):
            raise ValueError(f'the widths do not ascend: {self.grid}')

    @cached_property
    def seconds(self) -> np.ndarray:
        """The times as an array."""
        return np.array(self.milliseconds, np.float64) / 1e3

    def at(self, widths: np.ndarray) -> np.ndarray:
        """Times between the measured ones, linearly; beyond them, as the nearest ones go on.

        Args:
            widths: One row per axis, (axes, subnets).

        Returns:
            Seconds, (subnets,).
        """
        axes = [number for number, points in enumerate(self.grid) if len(points) > 1]
        if not axes:
            return np.full(widths.shape[1], float(self.seconds.ravel()[0]))
        values = self.seconds.reshape([len(self.grid[number]) for number in axes])
        points = [np.array(self.grid[number], np.float64) for number in axes]
        between = RegularGridInterpolator(points, values, bounds_error=False, fill_value=None)
        return np.maximum(between(widths[axes].T), 0.0)


@dataclass(frozen=True)
class Correction:
    """From the times of single layers to that of the whole network, all of them at least 0.

    Attributes:
        scale: What the sum of the table is multiplied with.
        per_byte: Seconds per byte that operations outside of the table move.
        per_mac: Seconds per MAC of products outside of the table.
        constant: Seconds that any subnet takes.
        subnets: How many subnets it was fitted to.
    """

    scale: Amount = 1.0
    per_byte: Amount = 0.0
    per_mac: Amount = 0.0
    constant: Amount = 0.0
    subnets: Whole = 0

    @property
    def coefficients(self) -> np.ndarray:
        """In the order of the features of an estimator."""
        return np.array([self.scale, self.per_byte, self.per_mac, self.constant])


@dataclass(frozen=True)
class LatencyTable:
    """What the layers of one network take on one device, at several widths.

    Attributes:
        device: Where they were measured.
        network: Class of the network.
        input: Shapes of its demo input.
        groups: Channels of its prunable groups.
        correction: Fitted to whole subnets.
        calls: (name of a layer, number in ``layers``), once per call in a forward pass.
        layers: Distinct layers.
        format: Of the file.
    """

    format: Literal['mmprune latency table 1'] = field(default=FORMAT, kw_only=True)
    device: Device
    network: str
    input: str
    groups: dict[str, Count]
    correction: Correction = field(default=Correction(), kw_only=True)
    calls: list[tuple[str, Whole]]
    layers: list[MeasuredLayer]

    def __post_init__(self) -> None:
        if max((number for _, number in self.calls), default=0) >= max(1, len(self.layers)):
            raise ValueError('a call names a layer that is not there')

    def corrected(self, correction: Correction) -> LatencyTable:
        """The same table with another correction."""
        return replace(self, correction=correction)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON."""
        write_data(asdict(self), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table.

        Raises:
            LatencyError: There is no such file, or it is no such table.
        """
        what = 'a latency table, which tools/latency.py builds'
        return checked(cls, read_data(path, what, LatencyError), str(path), LatencyError)

    def check(
        self,
        path: str | os.PathLike[str],
        device: Device | None,
        data: str,
        groups: Mapping[str, int],
    ) -> None:
        """Refuse to be used elsewhere.

        Args:
            path: The table's file, for the message.
            device: Where it must have been measured; None for anywhere.
            data: Shapes of the demo input.
            groups: Channels of the network's prunable groups.

        Raises:
            LatencyError: Device, versions, threads or network are others.
        """
        found = [] if device is None else self.device.differences(device)
        if self.input != data:
            found.append(f'input: {self.input!r}, now {data!r}')
        for name in sorted(self.groups.keys() | groups.keys()):
            before, now = self.groups.get(name, 0), groups.get(name, 0)
            if before != now:
                found.append(f"channels of group '{name}': {before}, now {now}")
        if found:
            more = f' ({len(found)} differences)' if len(found) > 3 else ''
            raise LatencyError(
                f'{path}: was measured for something else: {"; ".join(found[:3])}{more}. '
                'Build it anew with --rebuild, or name another file.'
            )
