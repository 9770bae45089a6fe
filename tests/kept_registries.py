"""What programs of pages and notebooks register is taken back after them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mmprune import registry
from mmprune.trace.operations import OPERATIONS


@contextmanager
def kept_registries(names: Iterable[str]) -> Iterator[None]:
    """Put registries, and the table of operations, back as they were."""
    tables = [getattr(registry, name) for name in names]
    for table in tables:
        table.import_from_location()
    dicts = [OPERATIONS, *(table._module_dict for table in tables)]
    before = [dict(each) for each in dicts]
    try:
        yield
    finally:
        for each, entries in zip(dicts, before, strict=True):
            each.clear()
            each.update(entries)
