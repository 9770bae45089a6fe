"""Which part of a tensor was written in place; the autograd graph does not say."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import torch

WHOLE, PART, ONE = 'whole', 'part', 'one'
"""What an index takes of a dim: all of it, some of it, or one position, which drops the dim.

In the place of ``PART`` stands (start, stop) where what it takes are neighbours.
"""
Taken = tuple[str | tuple[int, int], ...]


@dataclass(frozen=True)
class Rearranged:
    """A view of all elements of a contiguous tensor, in another shape or order.

    Attributes:
        shape: Shape of the view.
        strides: How many elements of the tensor are between neighbours along each dim.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]


Written = Taken | Rearranged


def taken_by(index: Any, shape: tuple[int, ...]) -> Taken | None:
    """What an index of slices, numbers and ``...`` takes of each dim; None for other ones."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, bool) or part is None for part in parts):
        return None
    for place, part in enumerate(parts):
        if isinstance(part, torch.Tensor) and part.dtype is torch.bool and part.dim() > 1:
            parts[place + 1 : place + 1] = [0] * (part.dim() - 1)  # what it takes is one dim
            break
    ellipses = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1 or len(parts) - len(ellipses) > len(shape):
        return None
    place = ellipses[0] if ellipses else len(parts)
    missing = len(shape) - len(parts) + len(ellipses)
    parts[place : place + len(ellipses)] = [slice(None)] * missing
    found: list[str | tuple[int, int]] = []
    for part, size in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            start, stop, step = part.indices(size)
            run = PART if step != 1 else (start, max(start, stop))
            found.append(WHOLE if (start, stop, step) == (0, size, 1) else run)
        elif isinstance(part, int):
            found.append(ONE)
        elif isinstance(part, torch.Tensor) and part.dtype is torch.bool:
            found.append(PART)
        else:
            return None
    return tuple(found)


class Writes:
    """Collects the in-place writes of a trace by autograd's sequence numbers.

    A write is seen where it is made: ``y[:, 0] = x``, ``y[:, 0].add_(x)`` and
    ``y.flatten(2).transpose(1, 2).add_(x)``.
    """

    def __init__(self) -> None:
        # By id; the view is held so that no other tensor gets its id.
        self._views: dict[int, tuple[torch.Tensor, Taken]] = {}
        self._starts: list[int] = []
        self._spans: list[tuple[int, Written]] = []

    def note(self, name: str, args: tuple, result: Any, start: int) -> None:
        """Look at a call that has ended.

        Args:
            name: Name of the function.
            args: What it was given.
            result: What it has returned.
            start: Autograd's sequence number before the call.
        """
        target = args[0] if args else None
        if not isinstance(target, torch.Tensor):
            return
        taken: Written | None = None
        if name in ('__getitem__', '__setitem__') and not target._is_view():
            taken = taken_by(args[1], tuple(target.shape))
            if name == '__getitem__':
                if taken is not None and isinstance(result, torch.Tensor) and result._is_view():
                    self._views[id(result)] = (result, taken)
                return
        elif id(target) in self._views and result is target:
            taken = self._views[id(target)][1]
        elif result is target:
            taken = _rearranged(target)
        if taken is not None:
            self._starts.append(start)
            self._spans.append((torch.autograd._get_sequence_nr(), taken))

    def at(self, sequence: int) -> Written | None:
        """What the write that made the node of this number took of its tensor, if it is known."""
        place = bisect.bisect_right(self._starts, sequence) - 1
        if place < 0 or sequence >= self._spans[place][0]:
            return None
        return self._spans[place][1]


def _rearranged(view: torch.Tensor) -> Rearranged | None:
    """How a view holds all elements of its contiguous base; None if it does not."""
    base = view._base
    if base is None or not base.is_contiguous() or view.numel() != base.numel():
        return None
    ordered = sorted(zip(view.stride(), view.shape, strict=True), reverse=True)
    expected = view.numel()
    for stride, size in ordered:
        if size == 1:
            continue
        expected //= size
        if stride != expected:
            return None  # some elements several times, others not at all
    return Rearranged(tuple(view.shape), tuple(view.stride()))
