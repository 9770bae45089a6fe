"""One tensor of a group of channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmprune.channels.facts import IntArray
from mmprune.trace.trace_graph import ComputedWeight


@dataclass(frozen=True)
class Member:
    """Dims of one tensor that a group indexes.

    Attributes:
        tensor: Name of a parameter or buffer.
        dims: The dims that the labels vary along; two for a grouped convolution's inputs.
        index: Channel number at every position of those dims, -1 for other groups' channels.
        computed: How the tensor comes from parameters, where it is a weight that is none.
    """

    tensor: str
    dims: tuple[int, ...]
    index: IntArray
    computed: ComputedWeight | None = None

    @cached_property
    def is_in_order(self) -> bool:
        """Whether the positions of a single dim are channels 0, 1, 2 and so on."""
        return self.index.ndim == 1 and bool((self.index == np.arange(len(self.index))).all())
