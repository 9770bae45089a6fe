"""The accuracies as tables, as a plot, and as part of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from mmprune.bench.accuracy.compare import (
    AGAINST,
    Comparison,
    comparisons,
    mean_difference,
    unpruned,
)
from mmprune.bench.accuracy.criteria import MEASURES, OF_DIGITS, OURS, THEIRS
from mmprune.bench.accuracy.networks import NETWORKS, TITLES
from mmprune.bench.accuracy.plot import TALK, write_plot, write_talk_plot
from mmprune.bench.accuracy.supernets import AUTOSLIM, EACH
from mmprune.bench.pages import insert_between, markdown_table
from mmprune.dependencies import installed_versions
from mmprune.report.tables import long
from mmprune.version import __version__

BEGIN, END = '<!-- accuracies: begin -->', '<!-- accuracies: end -->'
MARKS = {
    'digits': (BEGIN, END),
    'mnist': ('<!-- accuracies of mnist: begin -->', '<!-- accuracies of mnist: end -->'),
}
PLOTS = {'digits': 'accuracy_of_criteria.png', 'mnist': 'accuracy_after_the_cut.png'}
PACKAGES = ('torch', 'mmcls', 'torch-pruning', 'scikit-learn', 'mlxtend')
SEEN = ('validation', 'loss')
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
        f'a process; the rows took {hours:.1f} hours of it, one after the other; '
        f'seeds {", ".join(map(str, seeds))}. '
        f'{_epochs(contents)} epochs of training, {settings["finetune"]:g} of finetuning.'
    )


def _epochs(contents: Contents) -> str:
    """Of each network, or of all if they are the same."""
    found = {TITLES[each['network']]: f'{each["settings"]["epochs"]:g}' for each in contents}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ', '.join(f'{epochs} ({title})' for title, epochs in found.items())


Column = tuple[str, str]
"""A program and a measure."""


def columns(contents: Contents) -> list[Column]:
    """Those that something was measured for, in order."""
    with_peer = bool(contents[0]['settings']['with_peer'])
    found = []
    for measure in contents[0]['settings'].get('measures', OF_DIGITS):
        found.append((OURS, measure))
        if with_peer and measure in OF_DIGITS:
            found.append((THEIRS, measure))
    return found


def headings(shown: Sequence[Column]) -> list[str]:
    """Of a table."""
    names = ['criterion', 'scope', 'seeds', '% of MACs']
    for program, measure in shown:
        title = MEASURES[measure]
        is_paired = (THEIRS, measure) in shown
        names.append(THEIRS if program == THEIRS else f'{title}: {OURS}' if is_paired else title)
    return names


def cells(row: Comparison, shown: Sequence[Column], mark: str) -> list[str]:
    """What a table shows of a comparison; ``mark`` goes around what is behind."""
    kept = [f'{row.kept[program].mean:.1f}' for program in (OURS, THEIRS) if program in row.kept]
    found = [row.method, row.scope, str(row.num_seeds), ' / '.join(kept)]
    for program, measure in shown:
        figure = row.figures.get(program, {}).get(measure)
        around = mark if program == OURS and row.margin(measure) < -1 else ''
        fewer = figure is not None and len(figure.values) < row.num_seeds
        seeds = f' ({len(figure.values)})' if figure is not None and fewer else ''
        found.append('' if figure is None else f'{around}{figure}{around}{seeds}')
    return found


def tables(contents: Contents) -> Iterator[tuple[str, list[Comparison]]]:
    """A title and rows per network and target."""
    rows = list(comparisons(contents))
    for network, target in dict.fromkeys((row.network, row.target) for row in rows):
        full = unpruned(contents, network)
        title = f'{TITLES[network]}, {target:.0%} of the MACs; unpruned: {full["pruned"]} %'
        if 'finetuned' in full:
            title += f', finetuned as long: {full["finetuned"]} %'
        yield title, [row for row in rows if (row.network, row.target) == (network, target)]


def verdict(contents: Contents) -> list[str]:
    """How often mmprune is ahead and behind by more than the spread, and the mean difference."""
    every = list(comparisons(contents))
    lines = []
    for measure, title in MEASURES.items():
        rows = [r for r in every if r.beside(measure) and measure in r.figures[OURS]]
        if not rows:
            continue
        ahead = sum(row.margin(measure) > 1 for row in rows)
        behind = [str(row) for row in rows if row.margin(measure) < -1]
        other = AGAINST.get(measure)
        than = f', beside {THEIRS} with {MEASURES[other]}' if other == 'recalibrated' else ''
        than = f', beside {THEIRS} {MEASURES[other]}' if other == 'finetuned' else than
        text = f'{title}{than}: of {len(rows)} rows, mmprune is ahead by more than the spread in '
        text += f'{ahead}, behind in {len(behind)}'
        text += f' ({"; ".join(behind)})' if behind else ''
        difference = mean_difference(rows, measure)
        if difference is not None:
            text += f'; {difference.signed} percentage points ahead on average'
            text += f' of the rows of {len(difference.values)} seeds'
        lines.append(text)
    return lines


def drawn(contents: Contents) -> Iterator[str]:
    """What random subnets came to, and whether a search ranks them as finetuning does."""
    for content in contents:
        of = f'{TITLES[content["network"]]}, seed {content["seed"]}'
        for row in content['rows']:
            if 'test_mean' in row:
                figures = f'{row["test_mean"]:.1f} ± {row["test_spread"]:.1f}'
                yield (
                    f'{of}, {row["method"]} at {row["target"]:.0%}: {row["tried"]} subnets, as the '
                    f'search sees them, {figures} % of the test images, the best by the others '
                    f'{row["test"]:.1f} %'
                )
        single = [row for row in content['rows'] if row['method'] == EACH and 'finetuned' in row]
        if len(single) > 2:
            after = [row['finetuned'] for row in single]
            ranks = (spearmanr([row[seen] for row in single], after)[0] for seen in SEEN)
            yield (
                f'{of}: rank correlation of {len(single)} random subnets, each finetuned alone, '
                f'with {" and ".join(f"{r:+.2f} by {s}" for r, s in zip(ranks, SEEN, strict=True))}'
            )


def markdown(contents: Contents) -> str:
    """Everything as Markdown."""
    parts = []
    for own in _by_data(contents).values():
        shown = columns(own)
        parts.append(about(own))
        lines = [*(verdict(own) if own[0]['settings']['with_peer'] else ()), *drawn(own)]
        if lines:
            parts.append('\n'.join(f'- {line}.' for line in lines))
        for title, rows in tables(own):
            table = markdown_table(headings(shown), (cells(row, shown, '**') for row in rows))
            parts.append(f'**{title}**\n\n{table}')
    return '\n\n'.join(parts) + '\n'


def _by_data(contents: Contents) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each data set."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for content in contents:
        found.setdefault(NETWORKS[content['network']].data, []).append(content)
    return found


def show(contents: Contents) -> None:
    """Print the tables."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    for own in _by_data(contents).values():
        shown = columns(own)
        for title, rows in tables(own):
            table = Table(*map(long, headings(shown)), title=title)
            for row in rows:
                table.add_row(*cells(row, shown, '*'))
            console.print(table)
        console.print(about(own), soft_wrap=True, highlight=False, markup=False)
        for line in verdict(own) if own[0]['settings']['with_peer'] else ():
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def insert_into_docs(contents: Contents, page: Path) -> None:
    """Put the tables between the markers of a page, and the plots into ``images`` beside it.

    Raises:
        InputError: The page is missing, or does not have the markers once each.
    """
    for data, own in _by_data(contents).items():
        insert_between(page, *MARKS[data], markdown(own))
        rows = list(comparisons(own))
        picture = page.parent / 'images' / PLOTS[data]
        if data == 'mnist':
            write_talk_plot([row for row in rows if row.method == TALK], own, picture)
        else:
            rows = [row for row in rows if row.scope == 'global' or row.method == AUTOSLIM]
            write_plot(rows, picture)
