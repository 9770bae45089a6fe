"""The accuracies as tables, as a plot, and as part of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmprune.bench.accuracy.compare import (
    Comparison,
    comparisons,
    mean_difference,
    unpruned,
)
from mmprune.bench.accuracy.networks import TITLES
from mmprune.bench.accuracy.plot import write_plot
from mmprune.bench.accuracy.unit import AUTOSLIM, MEASURES, OURS, THEIRS
from mmprune.bench.pages import insert_between, installed_versions, write_text
from mmprune.version import __version__

BEGIN, END = '<!-- accuracies: begin -->', '<!-- accuracies: end -->'
PLOT = 'accuracy_of_criteria.png'
PACKAGES = ('torch', 'mmcls', 'torch-pruning', 'scikit-learn')
WIDTH = 200
"""Columns of the tables where the output is not a terminal."""
Contents = Sequence[Mapping[str, Any]]


def about(contents: Contents) -> str:
    """Versions, seeds and budget of training in a few sentences."""
    settings = contents[0]['settings']
    versions = {'mmprune': __version__, **installed_versions(PACKAGES)}
    seeds = sorted({content['seed'] for content in contents})
    hours = sum(row['seconds'] for content in contents for row in content['rows']) / 3600
    return (
        f'{", ".join(f"{name} {version}" for name, version in versions.items())}; CPU, one thread '
        f'a process; the rows took {hours:.1f} hours, one after the other; '
        f'seeds {", ".join(map(str, seeds))}. '
        f'{settings["epochs"]:g} epochs of training, {settings["finetune"]:g} of finetuning.'
    )


def headings(with_peer: bool) -> list[str]:
    """Of a table."""
    names = ['criterion', 'scope', 'seeds', '% of MACs']
    for title in MEASURES.values():
        names += [f'{title}: {OURS}', THEIRS] if with_peer else [title]
    return names


def cells(row: Comparison, with_peer: bool, mark: str) -> list[str]:
    """What a table shows of a comparison; ``mark`` goes around what is behind."""
    programs = (OURS, THEIRS) if with_peer else (OURS,)
    kept = [f'{row.kept[program].mean:.1f}' for program in programs if program in row.kept]
    found = [row.method, row.scope, str(row.num_seeds), ' / '.join(kept)]
    for measure in MEASURES:
        around = mark if row.margin(measure) < -1 else ''
        for program in programs:
            figures = row.figures.get(program)
            text = '' if figures is None else str(figures[measure])
            found.append(f'{around}{text}{around}' if program == OURS else text)
    return found


def tables(contents: Contents) -> Iterator[tuple[str, list[Comparison]]]:
    """A title and rows per network and target."""
    rows = list(comparisons(contents))
    for network, target in dict.fromkeys((row.network, row.target) for row in rows):
        full = unpruned(contents, network)
        title = (
            f'{TITLES[network]}, {target:.0%} of the MACs; unpruned: {full["pruned"]} %, finetuned '
            f'as long: {full["finetuned"]} %'
        )
        yield title, [row for row in rows if (row.network, row.target) == (network, target)]


def verdict(contents: Contents) -> list[str]:
    """How often mmprune is ahead and behind by more than the spread, and the mean difference."""
    rows = [row for row in comparisons(contents) if THEIRS in row.figures]
    lines = []
    for measure, title in MEASURES.items():
        ahead = sum(row.margin(measure) > 1 for row in rows)
        behind = [str(row) for row in rows if row.margin(measure) < -1]
        text = f'{title}: of {len(rows)} rows, mmprune is ahead by more than the spread in {ahead}'
        text += f', behind in {len(behind)}'
        text += f' ({"; ".join(behind)})' if behind else ''
        difference = mean_difference(rows, measure)
        if difference is not None:
            text += f'; {difference.signed} percentage points ahead on average'
        lines.append(text)
    return lines


def markdown(contents: Contents) -> str:
    """Everything as Markdown."""
    with_peer = bool(contents[0]['settings']['with_peer'])
    parts = [about(contents)]
    if with_peer:
        parts.append('\n'.join(f'- {line}.' for line in verdict(contents)))
    for title, rows in tables(contents):
        names = headings(with_peer)
        lines = [f'**{title}**', '', f'| {" | ".join(names)} |', '| --- ' * len(names) + '|']
        lines += [f'| {" | ".join(cells(row, with_peer, "**"))} |' for row in rows]
        parts.append('\n'.join(lines))
    return '\n\n'.join(parts) + '\n'


def write_markdown(contents: Contents, path: Path) -> None:
    """Write everything as Markdown."""
    write_text(markdown(contents), path)


def show(contents: Contents) -> None:
    """Print the tables."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with_peer = bool(contents[0]['settings']['with_peer'])
    for title, rows in tables(contents):
        table = Table(title=title)
        for heading in headings(with_peer):
            table.add_column(heading, overflow='fold')
        for row in rows:
            table.add_row(*cells(row, with_peer, '*'))
        console.print(table)
    console.print(about(contents), soft_wrap=True, highlight=False, markup=False)
    for line in verdict(contents) if with_peer else ():
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def insert_into_docs(contents: Contents, page: Path) -> None:
    """Put the tables between the markers of a page, and the plot into ``images`` beside it.

    Raises:
        InputError: The page is missing, or does not have the markers once each.
    """
    insert_between(page, BEGIN, END, markdown(contents))
    rows = [row for row in comparisons(contents) if row.scope == 'global' or row.method == AUTOSLIM]
    write_plot(rows, page.parent / 'images' / PLOT)
