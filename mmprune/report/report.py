"""The report of a prepared network, for a person."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from mmprune.channels import ChannelGroup, Member
from mmprune.errors import listed
from mmprune.report.findings import Cost, Findings, Pinned, find
from mmprune.report.tables import long, numbers
from mmprune.supernet.supernet import Supernet

LISTED = 8
"""How many names a line lists before it only counts."""


def report(supernet: Supernet, members: bool = True, width: int = 140) -> str:
    """What was traced, what can be pruned, what cannot and why, and what it would bring.

    Args:
        supernet: The prepared network.
        members: List the tensors of every group, too.
        width: Of the text, in characters; long names may stand out.
    """
    return report_of(find(supernet), members, width)


def report_of(findings: Findings, members: bool = True, width: int = 140) -> str:
    """``findings`` in words and tables. MACs are those of the whole demo batch."""
    stream = io.StringIO()
    console = Console(file=stream, width=width)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for line in _traced(findings):
        say(line)
    console.print(_groups(findings))
    say(f'{findings.prunable_groups} of {len(findings.groups)} groups are prunable')
    for pinned in findings.pinned:
        say(_pinned(pinned, findings.full))
    console.print(_costs(findings))
    say(summary(findings))
    if members:
        say('\nmembers of every group')
        for group in findings.groups:
            for line in _members(group):
                say(line)
    return '\n'.join(line.rstrip() for line in stream.getvalue().splitlines()) + '\n'


def summary(findings: Findings) -> str:
    """The prunable share in one line."""
    params, macs = percent(findings.prunable_params), percent(findings.prunable_macs)
    return (
        f'prunable: {params} of the parameters, {macs} of the MACs '
        '(those that belong to at least one prunable channel)'
    )


def percent(share: float) -> str:
    """A share as 12.34%; what is not all of it never says 100%, and what is some never 0%."""
    if 0 < share < 1:
        share = min(max(share, 1e-4), 0.9999)
    return f'{share:.2%}'


def _traced(findings: Findings) -> Iterable[str]:
    """Lines about the trace: what it saw, and what it did not understand."""
    yield (
        f'traced {findings.model}; nodes: {findings.nodes}, layers: {findings.layers}, '
        f'calls of modules: {findings.calls}'
    )
    yield f'roads: {", ".join(findings.roads)}'
    for name, problem in findings.not_walked.items():
        yield f'road that could not be walked: {name}: {problem}'
    counts = (f'{count} {operation}' for operation, count in findings.operations.items())
    yield f'operations: {", ".join(counts)}'
    for unknown in findings.unknown:
        times = '' if unknown.times == 1 else f'; {unknown.times} times'
        places = listed(map(str, unknown.places), LISTED)
        yield f'operation without {unknown.lacks}: {unknown.operation} in {places}{times}'
    if not findings.unknown:
        yield 'every operation has a parser and a channel rule'
    for why, names in findings.unreached.items():
        yield f'parameters not reached ({len(names)}): {listed(names, LISTED)}: {why}'
    if not findings.unreached:
        yield 'every parameter is reached'
    for escape in findings.escapes:
        yield f'not followed: {escape}'
    yield ''


def _groups(findings: Findings) -> Table:
    columns = long('group'), *numbers('channels', 'layers', 'members'), long('prunable, or why not')
    table = Table(*columns, title='channel groups')
    for group, kept in zip(findings.groups, findings.kept, strict=True):
        full = group.num_channels
        shuffled = [] if group.arrangement is None else [group.arrangement.reason]
        reasons = [c.reason for c in group.constraints] + shuffled
        state = '; '.join(['yes', *dict.fromkeys(reasons)])
        table.add_row(
            group.space_id,
            str(full) if kept == full else f'{kept} of {full}',
            str(len(group.layers)),
            str(len(group.members)),
            state if group.prunable else f'no: {group.reason}',
        )
    return table


def _costs(findings: Findings) -> Table:
    """Parameters and MACs at some widths."""
    full = findings.full
    table = Table('', *numbers('parameters', 'MACs'), title='cost')
    current = findings.current
    is_full = (current.params, current.macs) == (full.params, full.macs)
    for cost in (full, *(() if is_full else (current,)), findings.half):
        table.add_row(cost.name, _of(cost.params, full.params), _of(cost.macs, full.macs))
    return table


def _pinned(pinned: Pinned, full: Cost) -> str:
    """A reason, the groups that it holds, and what that costs."""
    noun = 'group' if len(pinned.groups) == 1 else 'groups'
    line = (
        f'pinned: {len(pinned.groups)} {noun}, {pinned.channels} channels: {pinned.reason} '
        f'[{listed(pinned.groups, LISTED)}]'
    )
    if pinned.params or pinned.macs:
        params, macs = _of(pinned.params, full.params), _of(pinned.macs, full.macs)
        line += f'; halving it too would save {params} parameters, {macs} MACs'
    return line


def _of(number: int, full: int) -> str:
    return f'{number:,} ({number / max(full, 1):.1%})'


def _members(group: ChannelGroup) -> Iterable[str]:
    """What a group indexes: layers that make and read it, and dims of tensors by module."""
    channels = f'{group.num_channels} channels' if group.num_channels > 1 else '1 channel'
    yield f'{group.space_id} ({channels})'
    if group.reason:
        yield f'  pinned: {group.reason}'
    for constraint in group.constraints:
        blocks, size = constraint.blocks.shape
        yield f'  equally many in {blocks} blocks of {size}: {constraint.reason}'
    if group.arrangement is not None:
        kinds, each = group.arrangement.num_kinds, group.arrangement.each
        yield f'  multiples of {each}, {kinds} kinds of channels: {group.arrangement.reason}'
    by_module: dict[str, list[str]] = {name: [] for name in (*group.layers, *group.consumers)}
    for member in group.members:
        module, _, name = member.tensor.rpartition('.')
        by_module.setdefault(module, []).append(f'{name}{_dims(member)}')
    roles = {'makes': group.layers, 'reads': group.consumers}
    for module, names in by_module.items():
        role = ' and '.join(verb for verb, layers in roles.items() if module in layers)
        owner = f'{module or "the root module"}{f" ({role})" if role else ""}'
        names = sorted(names, key=lambda name: not name.startswith('weight'))
        yield f'  {owner}: {", ".join(names) or "no tensor"}'


def _dims(member: Member) -> str:
    """The dims of a tensor, as ``[1]``; how much of it, if other groups have the rest."""
    inside = int((member.index >= 0).sum())
    part = '' if inside == member.index.size else f' {inside} of {member.index.size}'
    return f'[{", ".join(map(str, member.dims))}{part}]'
