"""Which channels are kept along many label arrays, found in a few array operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray


@dataclass(frozen=True)
class Kept:
    """The kept positions of every array of a ``Lookup``.

    Attributes:
        counts: How many positions of each are kept.
        runs: First kept position where the kept ones follow each other, else -1.
        index: The kept positions of each, (count,) int64.
        flat: Whether each element of all arrays is kept, the arrays laid end to end.
        sizes: Sizes of the arrays.
        starts: Where each begins in ``flat``.
        turned: Numbers of the arrays whose kept positions are in an order of their own.
    """

    counts: list[int]
    runs: list[int]
    index: tuple[torch.Tensor, ...]
    flat: BoolArray
    sizes: list[int]
    starts: list[int]
    turned: frozenset[int] = frozenset()

    def is_whole(self, number: int) -> bool:
        """Whether everything of an array is kept."""
        return self.counts[number] == self.sizes[number]

    def mask(self, number: int) -> BoolArray:
        """Whether each element of an array is kept."""
        start = self.starts[number]
        return self.flat[start : start + self.sizes[number]]

    def where(self, number: int) -> torch.Tensor | slice:
        """The kept positions of an array, as a slice if they follow each other."""
        first, count = self.runs[number], self.counts[number]
        return self.index[number] if first < 0 else slice(first, first + count)


class Lookup:
    """Label arrays that are asked about at every switch of the width.

    Equal arrays are kept once: the channels of a layer, of the norm behind it and of its
    consumers have the same labels.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._arrays: list[IntArray] = []

    def add(self, labels: IntArray) -> int:
        """The number of a label array, which is raveled."""
        flat = np.ascontiguousarray(labels, dtype=np.int64).ravel()
        number = self._numbers.setdefault(flat.tobytes(), len(self._arrays))
        if number == len(self._arrays):
            self._arrays.append(flat)
        return number

    def close(self) -> None:
        """Lay the arrays end to end; none can be added after this."""
        arrays = self._arrays or [np.zeros(1, np.int64)]
        self._sizes = [len(array) for array in arrays]
        self._starts = np.cumsum([0, *self._sizes[:-1]])
        self._labels = np.concatenate(arrays)
        self._fixed = self._labels < 0
        self._labels = np.maximum(self._labels, 0)
        self._positions = np.concatenate([np.arange(size) for size in self._sizes])

    def at(
        self, alive: BoolArray, device: torch.device, places: Mapping[bytes, IntArray] | None = None
    ) -> Kept:
        """The kept positions when the labels in ``alive``, (num_labels,), are kept.

        Args:
            alive: Which labels are alive; those below 0 always are.
            device: Where the index tensors are wanted.
            places: The kept positions of arrays, by their bytes, that are not wanted in order.
        """
        flat = alive[self._labels] | self._fixed
        counts = np.add.reduceat(flat, self._starts, dtype=np.int64)
        positions = self._positions[flat]
        stops = np.cumsum(counts)
        some = counts > 0
        first, last = np.full(len(counts), -1), np.zeros(len(counts), np.int64)
        first[some] = positions[(stops - counts)[some]]
        last[some] = positions[(stops - 1)[some]]
        runs = np.where(last - first + 1 == counts, first, -1)
        sizes = counts.tolist()
        turned = set()
        for key, order in (places or {}).items():
            number = self._numbers.get(key)
            if number is not None and (order[1:] < order[:-1]).any():
                positions[stops[number] - sizes[number] : stops[number]] = order
                runs[number] = -1
                turned.add(number)
        index = torch.from_numpy(positions).to(device).split(sizes)
        starts = self._starts.tolist()
        return Kept(sizes, runs.tolist(), index, flat, self._sizes, starts, frozenset(turned))
