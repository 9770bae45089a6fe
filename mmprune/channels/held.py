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
    for (module, what), reason in broken.items():
        if what == 'layers':
            names = [n for n in leaves.offsets if is_inside(n.rpartition('.')[0], module)]
            found = [factor for n in names for factor in leaves.factors(n, book.canonical)]
        else:
            sizes = unknown if what == 'unknown' else book.sizes
            found = [f for s in sizes if _is_held(s, module, what) for f in s.factors]
        for factor in found:
            book.pin(factor, reason)


def _is_held(size: Size, module: str, what: str) -> bool:
    if what == 'inside':
        return is_child(size.module, module)
    return size.module == module and what in ('unknown', 'passed' if not size.own else 'own')
