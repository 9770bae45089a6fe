"""The channel config that a supernet has written last, known again when it comes back."""

from __future__ import annotations

import marshal
from typing import Any

from mmprune.channels.constraints import BoolArray
from mmprune.supernet.supernet import Supernet


class Exported:
    """A channel config as it was written, which need not be checked and read as others are.

    Args:
        supernet: Whose subnet it is.
        cfg: The channel config; whoever has it may change it afterwards.
        alive: The labels that the subnet keeps, (num_labels,).
    """

    def __init__(self, supernet: Supernet, cfg: dict[str, Any], alive: BoolArray) -> None:
        self.supernet, self.alive = supernet, alive.copy()
        self._written = _written(cfg)

    def alive_of(self, supernet: Supernet, cfg: Any) -> BoolArray | None:
        """The labels that a channel config keeps, if it is this one, of this supernet."""
        is_same = supernet is self.supernet and self._written == _written(cfg) is not None
        return self.alive if is_same else None


def _written(cfg: Any) -> bytes | None:
    """All that is in a plain dict, types included: 1, 1.0 and True differ. None of another."""
    try:
        # Version 2 is the last that writes equal objects alike whoever else holds them.
        return marshal.dumps(cfg, 2) if type(cfg) is dict else None
    except ValueError:  # something in it is no plain data
        return None
