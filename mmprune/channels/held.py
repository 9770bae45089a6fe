"""What is held because a subnet has failed in a trial: sizes that shrink alike, or that stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmprune.channels.labels import EqualCounts, LabelBook, Size
from mmprune.channels.leaves import Leaves
from mmprune.channels.sizes import unlike_sizes


def is_child(name: str, parent: str) -> bool:
    """Whether a module stands directly in another one, by their names."""
    return bool(name) and name.rpartition('.')[0] == parent


def is_inside(name: str, outer: str) -> bool:
    """Whether a module is another one or stands in it at any depth, by their names."""
    return not outer or f'{name}.'.startswith(f'{outer}.')


def hold_broken(broken: Mapping[tuple[str, str], str], book: LabelBook, leaves: Leaves) -> None:
    """Dims that these modules know by number shrink alike, or stay."""
    by_module: dict[str, list[Size]] = {}
    for size in book.sizes:
        by_module.setdefault(size.module, []).append(size)
    pinned = np.concatenate([np.array([], int), *(labels.ravel() for labels, _ in book.pins)])
    for (module, what), reason in broken.items():
        sizes = by_module.get(module, [])
        if what == 'layers':
            for name in leaves.offsets:
                if is_inside(name.rpartition('.')[0], module):
                    for factor in leaves.factors(name, book.canonical):
                        book.pin(factor, reason)
            continue
        if what == 'inside':
            for name in by_module:
                for size in by_module[name] if is_child(name, module) else ():
                    for factor in size.factors:
                        book.pin(factor, reason)
            continue
        if what == 'alike':
            # A dim that stays may have the size of another one by chance.
            free = [size for size in sizes if not np.isin(size.row(), pinned).any()]
            for first, second in unlike_sizes(free):
                alike = f'{module} has one size for both'
                book.constraints.append(EqualCounts(np.stack([first, second]), alike))
            continue
        for size in sizes:
            if size.own is (what == 'own'):
                for factor in size.factors:
                    book.pin(factor, reason)
