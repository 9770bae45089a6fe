"""The report of a prepared network, for a person."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.table import Table

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.pruners.supernet import Supernet

LISTED = 8
"""How many names a line lists before it only counts."""


def report(supernet: Supernet, width: int = 140) -> str:
    """What can be pruned, what cannot and why, and what it would bring.

    A table of all groups, a table of costs (MACs are those of the whole demo batch), and
    what tracing did not understand.
    """
    console = Console(file=io.StringIO(), width=width)
    console.print(_groups(supernet))
    groups = supernet.groups.values()
    console.print(f'{len(supernet.prunable_groups)} of {len(groups)} groups are prunable')
    for reason, count, channels in _pinned(groups):
        noun = 'group' if count == 1 else 'groups'
        console.print(f'pinned: {count} {noun}, {channels} channels: {reason}', markup=False)
    console.print(_costs(supernet))
    for source, modules in supernet.graph.opaque.items():
        places = _list(name or 'the root module' for name in modules)
        console.print(f'operation without parser: {source} in {places}', markup=False)
    by_reason: dict[str, list[str]] = {}
    for name, why in supernet.graph.unreached.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        line = f'parameters not reached ({len(names)}): {_list(names)}: {why}'
        console.print(line, markup=False, soft_wrap=True)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def _groups(supernet: Supernet) -> Table:
    table = Table(title='channel groups')
    table.add_column('group', overflow='fold')
    for title in ('channels', 'layers', 'members'):
        table.add_column(title, justify='right')
    table.add_column('prunable, or why not', overflow='fold')
    for group in supernet.groups.values():
        kept = int(supernet.alive[group.labels].sum())
        full = group.num_channels
        state = '; '.join(['yes', *(c.reason for c in group.constraints)])
        table.add_row(
            group.space_id,
            str(full) if kept == full else f'{kept} of {full}',
            str(len(group.layers)),
            str(len(group.members)),
            state if group.prunable else f'no: {group.reason}',
        )
    return table


def _pinned(groups: Iterable[ChannelGroup]) -> list[tuple[str, int, int]]:
    """(reason, groups, channels) of the pinned groups, the most channels first."""
    found: dict[str, tuple[int, int]] = {}
    for group in groups:
        if not group.prunable:
            count, channels = found.get(group.reason, (0, 0))
            found[group.reason] = (count + 1, channels + group.num_channels)
    rows = [(reason, count, channels) for reason, (count, channels) in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def _costs(supernet: Supernet) -> Table:
    """Parameters and MACs of the full width, of the subnet that is set, of half the channels."""
    full, half = np.ones(supernet.size, bool), np.ones(supernet.size, bool)
    for group in supernet.prunable_groups.values():
        first = -np.arange(group.num_channels, dtype=np.float64)
        half[group.labels] = group.select(first, max(1, group.num_channels // 2))
    rows: list[tuple[str, BoolArray]] = [('full width', full)]
    if not supernet.alive.all():
        rows.append(('subnet that is set', supernet.alive))
    rows.append(('half of every prunable group', half))
    model = supernet.cost_model
    params, macs = model.params(full), model.macs(full)
    table = Table(title='cost')
    table.add_column('')
    table.add_column('parameters', justify='right')
    table.add_column('MACs', justify='right')
    for name, alive in rows:
        ours = (model.params(alive), params), (model.macs(alive), macs)
        table.add_row(name, *(f'{n:,} ({n / max(of, 1):.1%})' for n, of in ours))
    return table


def _list(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - LISTED
    return ', '.join(names[:LISTED]) + (f' and {rest} more' if rest > 0 else '')
