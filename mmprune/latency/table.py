"""Times of layers by width, on one device, in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import atomic_path
from mmprune.latency.device import Device
from mmprune.latency.shapes import LayerShape

FORMAT = 'mmprune latency table 1'


class LatencyError(InputError):
    """A latency table that is broken, or of another device or network."""


@dataclass(frozen=True)
class MeasuredLayer:
    """Times of one layer.

    Attributes:
        shape: The layer at full width.
        grid: The widths that were measured, per axis: inputs and outputs, or only inputs.
        seconds: Time of the fastest round at every point of the grid, of the grid's shape.
    """

    shape: LayerShape
    grid: tuple[tuple[int, ...], ...]
    seconds: np.ndarray

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

    scale: float = 1.0
    per_byte: float = 0.0
    per_mac: float = 0.0
    constant: float = 0.0
    subnets: int = 0

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
        data: Shapes of its demo input.
        groups: Channels of its prunable groups.
        layers: Distinct layers.
        calls: (name of a layer, number in ``layers``), once per call in a forward pass.
        correction: Fitted to whole subnets.
    """

    device: Device
    network: str
    data: str
    groups: Mapping[str, int]
    layers: tuple[MeasuredLayer, ...]
    calls: tuple[tuple[str, int], ...]
    correction: Correction = Correction()

    def corrected(self, correction: Correction) -> LatencyTable:
        """The same table with another correction."""
        return replace(self, correction=correction)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON."""
        content = {
            'format': FORMAT,
            'device': asdict(self.device),
            'network': self.network,
            'input': self.data,
            'groups': dict(self.groups),
            'correction': asdict(self.correction),
            'calls': [list(call) for call in self.calls],
            'layers': [
                {
                    'about': str(layer.shape),
                    'shape': asdict(layer.shape),
                    'grid': layer.grid,
                    'milliseconds': (layer.seconds * 1e3).round(6).tolist(),
                }
                for layer in self.layers
            ],
        }
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table.

        Raises:
            LatencyError: The file is no such table.
            MissingFileError: There is no such file.
        """
        file = Path(path)
        if not file.is_file():
            raise MissingFileError(
                f'{path}: there is no such latency table; build one by tools/latency.py'
            )
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
            if content['format'] != FORMAT:
                raise ValueError(f'the format is {content["format"]!r}, not {FORMAT!r}')
            table = cls(
                device=Device.from_dict(content['device']),
                network=content['network'],
                data=content['input'],
                groups=content['groups'],
                layers=tuple(_layer(entry) for entry in content['layers']),
                calls=tuple((str(name), int(number)) for name, number in content['calls']),
                correction=Correction(**content['correction']),
            )
            if any(not 0 <= number < len(table.layers) for _, number in table.calls):
                raise ValueError('a call names a layer that is not there')
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LatencyError(f'{path}: no latency table ({error}); build it anew') from error
        return table

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
        if self.data != data:
            found.append(f'input: {self.data!r}, now {data!r}')
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


def _layer(entry: Mapping[str, Any]) -> MeasuredLayer:
    shape = dict(entry['shape'])
    shape['options'] = tuple((name, _tuples(value)) for name, value in shape['options'])
    shape['data'] = tuple(shape['data'])
    grid = tuple(tuple(int(width) for width in points) for points in entry['grid'])
    seconds = np.array(entry['milliseconds'], np.float64) / 1e3
    if seconds.shape != tuple(map(len, grid)) or not np.isfinite(seconds).all():
        raise ValueError(f'{entry["about"]}: times of shape {seconds.shape} for {grid}')
    return MeasuredLayer(LayerShape(**shape), grid, seconds)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
