"""The benchmark's results as tables, as a file, and as part of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mmprune.bench.pages import insert_between, markdown_table
from mmprune.bench.rows import Row

TITLES = {
    'execution': 'Execution: a subnet in the supernet beside the deployed network',
    'peers': 'Peers of the masks',
    'tracing': 'Preparing a supernet',
    'job': 'Network in, smaller network out',
    'cost': 'Cost in closed form',
    'latency': 'Latency predicted by a table of layers',
    'search': 'Searching a supernet',
}
HEADINGS = ('what', 'measured', 'beside', 'measured', 'ratio', 'target', '')
BEGIN, END = '<!-- figures of {}: begin -->', '<!-- figures of {}: end -->'


def amount(value: float | None, unit: str) -> str:
    """A number with three digits or more, and its unit."""
    if value is None:
        return ''
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f'{value:,.{digits}f} {unit}'.strip()


def cells(row: Row) -> list[str]:
    """What a table shows of a row, the subject left out."""
    met = {True: 'met', False: 'missed', None: ''}[row.meets]
    return [
        row.what,
        amount(row.value, row.unit),
        row.against,
        amount(row.reference, row.unit),
        '' if row.ratio is None else f'{row.ratio:.3f}',
        row.target,
        met,
    ]


def by_section(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The title of each section, and its rows."""
    for section, title in TITLES.items():
        found = [row for row in rows if row.section == section]
        if found:
            yield title, found


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table per section."""
    for title, found in by_section(rows):
        table = Table(title=title)
        table.add_column('', overflow='fold')
        for heading in HEADINGS:
            is_number = heading in ('measured', 'ratio', 'target')
            table.add_column(heading, justify='right' if is_number else 'left', overflow='fold')
        subject = ''
        for row in found:
            style = 'red' if row.meets is False else None
            table.add_row('' if row.subject == subject else row.subject, *cells(row), style=style)
            subject = row.subject
        yield table


def about(content: Mapping[str, Any]) -> str:
    """Machine, versions and settings in a sentence or two."""
    device, versions = content['device'], content['versions']
    threads = f', {device["threads"]} threads' if device['kind'] == 'cpu' else ''
    listed = ', '.join(f'{name} {version}' for name, version in versions.items())
    rows = [Row.from_dict(row) for row in content['rows']]
    spreads = sorted(row.spread for row in rows if row.rounds > 1)
    middle = f'{spreads[len(spreads) // 2]:.1%}' if spreads else 'unknown'
    return (
        f'{device["name"]}{threads}, {device["system"]}; {listed}; {content["date"]}, '
        f'{content["seconds"]:.0f} s, load average {content["load"]:.1f} before it. Medians (of '
        'preparing and the whole job the fastest) of passes that take turns; half the distance of '
        f'their quartiles is {middle} of the median for the middle row. Kept channels: '
        f'{content["options"]["kept"]}.'
    )


def markdown(content: Mapping[str, Any]) -> str:
    """Everything as Markdown."""
    rows = [Row.from_dict(row) for row in content['rows']]
    parts = [about(content)]
    for title, found in by_section(rows):
        table = markdown_table(['', *HEADINGS], ([row.subject, *cells(row)] for row in found))
        parts.append(f'**{title}**\n\n{table}')
    if content['problems']:
        lines = [f'- {title}: {problem}' for title, problem in content['problems'].items()]
        parts.append('\n'.join(['**Not measured**', '', *lines]))
    return '\n\n'.join(parts) + '\n'


def insert_into_docs(content: Mapping[str, Any], page: Path) -> None:
    """Put the tables between the markers of a page, which has a pair per kind of device.

    Raises:
        InputError: The page is missing, or does not have the markers once each.
    """
    kind = content['device']['kind']
    insert_between(page, BEGIN.format(kind), END.format(kind), markdown(content))
