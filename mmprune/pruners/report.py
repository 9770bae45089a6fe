"""The report of a prepared network, for a person."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from mmprune.pruners.supernet import Supernet


def report(supernet: Supernet, width: int = 140) -> str:
    """A table of all groups: channels, members, and whether they can be pruned or why not."""
    table = Table(title='channel groups')
    for title, justify in (('group', 'left'), ('channels', 'right'), ('layers', 'right'),
                           ('members', 'right'), ('prunable, or why not', 'left')):  # fmt: skip
        table.add_column(title, justify=justify, overflow='fold')  # type: ignore[arg-type]
    for group in supernet.groups.values():
        state = group.reason or '; '.join(['yes', *(c.reason for c in group.constraints)])
        table.add_row(
            group.space_id,
            str(group.num_channels),
            str(len(group.layers)),
            str(len(group.members)),
            state if group.prunable else f'no: {state}',
        )
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    prunable = supernet.prunable_groups
    console.print(
        f'{len(prunable)} of {len(supernet.groups)} groups are prunable; '
        f'{supernet.cost_model.params(supernet.alive):,} parameters and '
        f'{supernet.cost_model.macs(supernet.alive):,} MACs in the subnet that is set'
    )
    for source, modules in supernet.graph.opaque.items():
        places = ', '.join(name or 'the root module' for name in modules)
        console.print(f'operation without parser: {source} in {places}', markup=False)
    for name, why in supernet.graph.unreached.items():
        console.print(f'parameter not reached: {name}: {why}', markup=False)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()
