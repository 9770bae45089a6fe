"""Sizes in masked execution: tensors are full, but quantities are computed from what is kept."""

from __future__ import annotations

from typing import Any

from mmprune.trace.expressions import FUNCTIONS
from mmprune.trace.stored import sequence_like
from mmprune.trace.traced_int import TracedInt


class MaskedSize(TracedInt):
    """The full size of a dim, as which torch takes it, and the kept one, for quantities.

    Attributes:
        kept: How much of the dim the subnet has.
    """

    kept: int

    def __new__(cls, full: int, kept: int) -> MaskedSize:
        """The size ``full``, of which ``kept`` are kept."""
        size = int.__new__(cls, full)
        size.kept = kept
        return size

    def _computed(self, function: str, operands: tuple[int, ...], result: int) -> int:
        kept = [own.kept if isinstance(own, MaskedSize) else own for own in operands]
        return MaskedSize(result, FUNCTIONS[function](*kept))

    def _scale(self) -> int:
        return self.kept

    __hash__ = int.__hash__


def masked_sizes(full: Any, kept: Any) -> Any:
    """A number, or several, in full size that know what is kept of each."""
    if isinstance(full, int):
        return MaskedSize(full, kept)
    parts = [masked_sizes(own, part) for own, part in zip(full, kept, strict=True)]
    return sequence_like(full, parts)
