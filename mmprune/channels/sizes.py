"""Numbers that a module keeps of its own and that are sizes of dims that shrink.

A module may cut or view its data by numbers that it stored when it was made (``num_heads``,
``head_dims``, the widths of a split). Which of its numbers are such sizes is read off the trace,
see ``readings``. One whose use was not seen is taken to be the size of the channels that its
module handles if it is named so and equal. That it is right is not believed but tried: a prepared
network is run on a random subnet before it is handed out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.channels.facts import set_key
from mmprune.channels.labels import EqualCounts, IntArray, LabelBook, Size, kept

Numbers = Mapping[str, int | tuple[int, ...]]
"""Attribute of a module -> the whole number, or several, that it holds."""

# Numbers with these names are no sizes of channels, whatever they equal.
NO_SIZE = re.compile(
    r'kernel|stride|pad|dilat|window|shift|resol|num_classes|depth|num_layers|stage|indices|'
    r'patch|img|image|scale|ratio|level|iter|seed|epoch|max_|min_|_id|idx|input_size|pool'
)
# Numbers whose use was not seen are sizes if they are named so.
CHANNELS = re.compile(
    r'channel|dim|width|feat|hidden|embe?d|planes|out_c|in_c|^groups$|d_model|d_inner|d_ff|d_kv'
)


@dataclass(frozen=True)
class SizeAttribute:
    """A number of a module that is the size of a dim.

    Attributes:
        module: Name of the module.
        name: Name of the attribute.
        raw: Its full-size value, a number or several.
        index: Position in it if it holds several numbers, else None.
        size: The dim.
    """

    module: str
    name: str
    raw: int | tuple[int, ...]
    index: int | None
    size: Size


class Shrinking:
    """Which dims can get smaller.

    A dim of blocks of channels (heads, of which each keeps equally many) stays as it is: at every
    position of it some channel is left.
    """

    def __init__(self, constraints: Iterable[EqualCounts]) -> None:
        self._rows: dict[int, list[frozenset[int]]] = {}
        # By id; the array is held so that no other one gets its id.
        self._known: dict[tuple[int, int], tuple[IntArray, bool]] = {}
        for constraint in constraints:
            if len(constraint.rows) > 1:
                for row in constraint.rows:
                    self._rows.setdefault(int(row[0]), []).append(frozenset(row.tolist()))

    def __call__(self, size: Size) -> bool:
        """Whether a subnet may have less along this dim."""
        for factor in size.factors:
            key = id(factor), size.dim  # the same arrays come again and again
            if key not in self._known:
                self._known[key] = (factor, self._is_kept(factor, size.dim))
            if not self._known[key][1]:
                return True
        return False

    def _is_kept(self, factor: IntArray, dim: int) -> bool:
        """Whether every position along ``dim`` has all labels of a row, of which some are left."""
        if factor.max() < 0:
            return True
        if factor.size == factor.shape[dim]:
            return False
        for block in np.moveaxis(factor, dim, 0).reshape(factor.shape[dim], -1):
            labels = set(block.tolist())
            if not any(row <= labels for label in labels for row in self._rows.get(label, ())):
                return False
        return True


def size_in(size: Size, alive: BoolArray) -> int:
    """How much of a dim the subnet whose labels are ``alive`` has."""
    if not size.factors:
        return size.full
    masks = [kept(alive, factor) for factor in size.factors]
    if size.of_blocks:
        others = tuple(dim for dim in range(masks[0].ndim) if dim != size.dim)
        return int(reduce(np.logical_and, masks).any(axis=others).sum())
    # Where there is something at all, there is as much along the dim everywhere. Shuffled
    # channels need not fill a box, since the places of the full network are not theirs.
    return int(reduce(np.logical_and, masks).sum(axis=size.dim).max())


def unread_attributes(
    sizes: Iterable[Size],
    numbers: Mapping[str, Numbers],
    read: Collection[tuple[str, str]],
    book: LabelBook,
) -> list[SizeAttribute]:
    """Numbers that are sizes, of those whose use was not seen.

    They are taken to be the size of a dim that their module handles, if it is plain which one: a
    deployed network may be asked to fuse its branches into layers of these sizes.

    Args:
        sizes: Dims that modules handle, also those that do not shrink.
        numbers: Stored numbers, by module.
        read: Attributes whose use was seen.
        book: What is known of the labels.
    """
    by_module: dict[str, list[Size]] = {}
    for size in sizes:
        if size.module in numbers:
            by_module.setdefault(size.module, []).append(size)
    shrinks, found = Shrinking(book.constraints), []
    for module, candidates in by_module.items():
        for name, value in numbers[module].items():
            known = (module, name) in book.known_sizes or (module, name) in read
            if known or '.' in name or NO_SIZE.search(name):
                continue
            several = isinstance(value, tuple)
            for index, number in enumerate(value if isinstance(value, tuple) else (value,)):
                chosen = _choose(name, number, candidates)
                if chosen is not None and shrinks(chosen):
                    found.append(
                        SizeAttribute(module, name, value, index if several else None, chosen)
                    )
    for (module, name), sizes_of in book.known_sizes.items():
        raw = numbers.get(module, {}).get(name)
        for place, size in sizes_of.items():
            if (module, name) in read:
                continue
            if isinstance(raw, tuple) and raw[place or 0] == size.full:
                found.append(SizeAttribute(module, name, raw, place or 0, size))
            elif isinstance(raw, int) and raw == size.full:
                found.append(SizeAttribute(module, name, raw, None, size))
    return found


def _choose(name: str, number: int, candidates: list[Size]) -> Size | None:
    """The dim of channels whose size ``number`` is, if it is named so and there is but one."""
    if not CHANNELS.search(name):
        return None
    chosen = [size for size in candidates if size.full == number]
    if not all(size.factors for size in chosen):
        return None  # something that stays has this size too
    alike = {set_key(size.row()) for size in chosen}
    return chosen[0] if len(alike) == 1 else None
