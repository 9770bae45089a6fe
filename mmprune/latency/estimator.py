"""The time of any subnet, from the times of its layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import nnls
from torch.utils._pytree import tree_leaves

from mmprune.channels.groups import ChannelGroup
from mmprune.channels.labels import IntArray
from mmprune.cost import CostModel, CostTable
from mmprune.cost.forms import LinearForm
from mmprune.latency.table import Correction, LatencyTable
from mmprune.layers import Layer

LEAST_SCALE = 0.5
"""The share of the sum of the layers' times that a prediction has at least."""


class Prepared(Protocol):
    """What is needed of a prepared network."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Its layers by name."""

    @property
    def prunable_groups(self) -> Mapping[str, ChannelGroup]:
        """The groups that a subnet decides about."""

    @property
    def cost_model(self) -> CostModel:
        """The terms of its cost."""

    @property
    def cost_table(self) -> CostTable:
        """What subnets cost by widths."""

    @property
    def demo_input(self) -> Any:
        """What it was traced on."""


def data_of(demo_input: Any) -> str:
    """Shapes and types of a demo input, as they stand in a table."""
    tensors = [leaf for leaf in tree_leaves(demo_input) if isinstance(leaf, torch.Tensor)]
    return ', '.join(f'{"x".join(map(str, t.shape))} {str(t.dtype)[6:]}' for t in tensors)


def widths_of_groups(network: Prepared) -> dict[str, int]:
    """Channels of the prunable groups."""
    return {name: group.num_channels for name, group in network.prunable_groups.items()}


class LatencyEstimator:
    """Predicts the time of subnets: the layers of the table, and a correction for the rest.

    Where the width of a layer depends on which channels of a group are kept, not only on how
    many, it is taken to be the mean over all sets of so many.

    Args:
        table: Times of the layers of this network on this device.
        network: The prepared network.
    """

    def __init__(self, table: LatencyTable, network: Prepared) -> None:
        self.table = table
        self._costs = network.cost_table.mean
        self._forms = [layer_forms(network, name) for name, _ in table.calls]
        tabled = {name for name, _ in table.calls}
        rest = [work for work in self._costs.memory.work if work.module not in tabled]
        self._rest_bytes = self._costs.polynomials([t for work in rest for t in work.tensors])
        products = [term for term in network.cost_model.products if term.what not in tabled]
        self._rest_macs = self._costs.polynomials(products)

    def features(self, widths: IntArray) -> np.ndarray:
        """What the time is a sum of: seconds of the table, bytes and MACs of the rest, 1.

        Args:
            widths: Kept channels of every group, (subnets, groups).

        Returns:
            (subnets, 4).
        """
        widths = np.asarray(widths)
        self._costs.check(widths)
        table = np.zeros(len(widths))
        for (_, number), forms in zip(self.table.calls, self._forms, strict=True):
            layer = self.table.layers[number]
            along = np.stack([evaluate(form, widths) for form in forms[: len(layer.grid)]])
            table += layer.at(along)
        wide = torch.from_numpy(widths).double()
        rest = [
            form.differentiable(wide)[:, 0].numpy() for form in (self._rest_bytes, self._rest_macs)
        ]
        return np.stack([table, *rest, np.ones(len(widths))], axis=1)

    def batch(self, widths: IntArray) -> np.ndarray:
        """Predicted seconds of many subnets, (subnets,), for widths as in ``features``."""
        return self.features(widths) @ self.table.correction.coefficients

    def of(self, subnet: Mapping[str, torch.Tensor]) -> float:
        """Predicted seconds of one subnet."""
        return float(self.batch(self._costs.widths_of(subnet)[None])[0])

    def fit(self, widths: IntArray, seconds: Sequence[float]) -> Correction:
        """The correction under which the prediction is closest to whole subnets' times.

        Relative errors are weighed alike. No coefficient is below 0, and the scale not below
        ``LEAST_SCALE``: a table must not drown in the noise of a few measurements (Lawson and
        Hanson, Solving Least Squares Problems, 1974, chapter 23).

        Args:
            widths: Of the measured subnets, (subnets, groups).
            seconds: What they took.
        """
        measured = np.asarray(seconds, np.float64)
        features = self.features(widths) / measured[:, None]
        # Columns of bytes and of seconds differ by many orders of magnitude.
        size = np.abs(features).max(axis=0)
        size[size == 0] = 1
        # What the least scale leaves to explain.
        solution, _ = nnls(features / size, 1 - LEAST_SCALE * features[:, 0])
        scale, per_byte, per_mac, constant = (solution / size).tolist()
        return Correction(LEAST_SCALE + scale, per_byte, per_mac, constant, len(measured))


def layer_forms(network: Prepared, name: str) -> tuple[LinearForm, LinearForm]:
    """The numbers of inputs and outputs of a layer, as functions of the widths."""
    layer = network.layers[name]
    labels = [layer.inputs if layer.inputs is not None else layer.outputs, layer.outputs]
    forms = [network.cost_table.mean.form(each, name) for each in labels if each is not None]
    return forms[0], forms[1]


def evaluate(form: LinearForm, widths: IntArray) -> np.ndarray:
    """A form at many widths, (subnets,), for (subnets, groups)."""
    found = np.full(len(widths), float(form.constant))
    for group, coefficient in form.coefficients:
        found += float(coefficient) * widths[:, group]
    return found


class TableLatency:
    """A latency table as ``latency=`` of a pruner with a budget, or as a function.

    The table is read, and compared with the network, when it is first used.

    Args:
        path: A file that ``tools/latency.py`` has written. A table of another machine tells what
            subnets take there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._for: tuple[Prepared, LatencyEstimator] | None = None

    def estimator(self, network: Prepared) -> LatencyEstimator:
        """The estimator for a prepared network.

        Raises:
            LatencyError: The table is broken, or of another network or input.
        """
        if self._for is None or self._for[0] is not network:
            table = LatencyTable.load(self.path)
            data = data_of(network.demo_input)
            table.check(self.path, None, data, widths_of_groups(network))
            self._for = network, LatencyEstimator(table, network)
        return self._for[1]

    def __call__(self, pruner: Any, subnet: Mapping[str, torch.Tensor]) -> float:
        """Predicted milliseconds of a subnet."""
        return 1e3 * self.estimator(pruner.supernet).of(subnet)
