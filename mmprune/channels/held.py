"""What is held because a subnet has failed in a trial: sizes that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmprune.channels.labels import LabelBook, Size
from mmprune.channels.leaves import Leaves


def is_child(name: str, parent: str) -> bool:
    """Whether a module stands directly in another one, by their names."""
    return bool(name) and name.rpartition('.')[0] == parent


def is_inside(name: str, outer: str) -> bool:
    """Whether a module is another one or stands in it at any depth, by their names."""
    return not outer or f'{name}.'.startswith(f'{outer}.')


def hold_broken(
    broken: Mapping[tuple[str, str], str],
    book: LabelBook,
    leaves: Leaves,
    unknown: Iterable[Size],
) -> None:
    """Dims that these modules know by number stay."""
    by_module: dict[str, list[Size]] = {}
    for size in book.sizes:
        by_module.setdefault(size.module, []).append(size)
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
        if what == 'unknown':
            sizes = [size for size in unknown if size.module == module]
        if what not in ('unknown', 'own', 'passed'):
            continue
        for size in sizes:
            if size.own is (what != 'passed'):
                for factor in size.factors:
                    book.pin(factor, reason)
