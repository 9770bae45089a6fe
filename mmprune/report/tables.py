"""Tables, and where they are printed."""

from typing import TextIO

from rich.console import Console
from rich.table import Table


def wide_console(file: TextIO | None = None) -> Console:
    """Return a console that is wide enough for a table where its output is not a terminal.

    Args:
        file: Where it prints; by default whatever the standard output is at the time.
    """
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=120)


def show(table: Table) -> None:
    """Print a table."""
    wide_console().print(table)


def before_and_after_table(title: str, rows: dict[str, tuple[int, int]]) -> Table:
    """Return a comparison of the full network and a subnet.

    Args:
        title: Of the table.
        rows: By name of the quantity: its value before and after.
    """
    table = Table(title=title)
    table.add_column('')
    for heading in ('full network', 'subnet', 'kept'):
        table.add_column(heading, justify='right')
    for name, (before, after) in rows.items():
        table.add_row(name, f'{before:,}', f'{after:,}', f'{after / before:.1%}')
    return table
