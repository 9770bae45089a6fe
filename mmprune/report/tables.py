"""Tables, and where they are printed."""

from typing import TextIO

from rich.console import Console
from rich.table import Column, Table


def wide_console(file: TextIO | None = None) -> Console:
    """Return a console that is wide enough for a table where its output is not a terminal.

    Args:
        file: Where it prints; by default whatever the standard output is at the time.
    """
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=120)


def numbers(*headings: str) -> list[Column]:
    """Columns of numbers, for a new table."""
    return [Column(heading, justify='right') for heading in headings]


def long(heading: str) -> Column:
    """A column of texts that go on in the next line."""
    return Column(heading, overflow='fold')


def show(table: Table) -> None:
    """Print a table."""
    wide_console().print(table)


def before_and_after_table(title: str, rows: dict[str, tuple[int, int]]) -> Table:
    """Return a comparison of the full network and a subnet.

    Args:
        title: Of the table.
        rows: By name of the quantity: its value before and after.
    """
    table = Table('', *numbers('full network', 'subnet', 'kept'), title=title)
    for name, (before, after) in rows.items():
        table.add_row(name, f'{before:,}', f'{after:,}', f'{after / before:.1%}')
    return table
