"""Means and spreads over seeds, and who is ahead by more than the spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from mmprune.bench.accuracy.criteria import BESIDE, MEASURES, OURS, THEIRS
from mmprune.bench.accuracy.networks import TITLES
from mmprune.bench.accuracy.supernets import EACH
from mmprune.bench.accuracy.unit import TOO_LARGE

AGAINST = {'compensated': 'recalibrated', 'taught': 'finetuned'}
"""What of Torch-Pruning's stands beside what nobody does to its networks; else the same."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One number over seeds.

    Attributes:
        values: One per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return mean(self.values)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds, 0 for one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def signed(self) -> str:
        """A difference, with its sign."""
        return f'{self.mean:+.2f} ± {self.spread:.2f}'

    def __str__(self) -> str:
        return f'{self.mean:.1f} ± {self.spread:.1f}'


@dataclass(frozen=True)
class Comparison:
    """One method at one target, in one or both programs, over the same seeds.

    Attributes:
        network: Its name.
        method: A criterion's name, or that of another way.
        scope: Which scores are compared; may be empty.
        target: Share of the multiply-adds.
        kept: By program, the shares of the multiply-adds that were left, in percent.
        figures: By program and measure, accuracies in percent.
    """

    network: str
    method: str
    scope: str
    target: float
    kept: Mapping[str, Figure]
    figures: Mapping[str, Mapping[str, Figure]]

    def __str__(self) -> str:
        scope = f', {self.scope}' if self.scope else ''
        return f'{TITLES[self.network]} at {self.target:.0%}, {self.method}{scope}'

    @property
    def num_seeds(self) -> int:
        """Over how many seeds the numbers are."""
        return len(self.kept[OURS].values)

    def beside(self, measure: str) -> Figure | None:
        """What Torch-Pruning's network of the same cost does; None if there is nothing beside."""
        too_large = THEIRS in self.kept and self.kept[THEIRS].mean > TOO_LARGE * 100 * self.target
        if THEIRS not in self.figures or too_large:
            return None
        return self.figures[THEIRS].get(AGAINST.get(measure, measure))

    def margin(self, measure: str) -> float:
        """By how many spreads mmprune is ahead; below -1 it is behind by more than the spread.

        The spread is the larger of the two standard deviations. 0 if there is nothing beside.
        """
        ours, theirs = self.figures[OURS].get(measure), self.beside(measure)
        if ours is None or theirs is None:
            return 0.0
        ahead = ours.mean - theirs.mean
        spread = max(ours.spread, theirs.spread)
        return ahead / spread if spread else float(ahead > 0) - float(ahead < 0)


def mean_difference(rows: Sequence[Comparison], measure: str) -> Figure | None:
    """By how much mmprune is ahead on average over rows, one number per seed.

    Rows over fewer seeds than others are left out; None if nothing is left to compare.
    """
    pairs = [
        (ours.values, theirs.values)
        for row in rows
        if (ours := row.figures[OURS].get(measure)) and (theirs := row.beside(measure))
    ]
    most = max((len(ours) for ours, _ in pairs), default=0)
    pairs = [pair for pair in pairs if len(pair[0]) == len(pair[1]) == most]
    if not pairs:
        return None
    return Figure(tuple(mean(ours[i] - theirs[i] for ours, theirs in pairs) for i in range(most)))


def comparisons(contents: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """All rows but those of unpruned and single networks, over the seeds of all programs."""
    full = {
        (content['network'], content['seed']): row['macs']
        for content in contents
        for row in content['rows']
        if row['target'] == 1
    }
    by_key: dict[tuple[str, str, str, float], dict[str, dict[int, Mapping[str, Any]]]] = {}
    for content in contents:
        for row in content['rows']:
            if row['target'] == 1 or row['method'] == EACH:
                continue
            key = content['network'], row['method'], row['scope'], row['target']
            by_key.setdefault(key, {}).setdefault(row['program'], {})[content['seed']] = row
    for (network, method, scope, target), own in by_key.items():
        other = by_key.get((network, BESIDE.get(method, method), scope, target), {})
        programs = {**{k: v for k, v in other.items() if k == THEIRS}, **own}
        seeds = sorted(set.intersection(*(set(rows) for rows in programs.values())))
        if OURS not in programs or not seeds:
            continue
        kept, figures = {}, {}
        for program, rows in programs.items():
            kept[program] = Figure(
                tuple(100 * rows[seed]['macs'] / full[network, seed] for seed in seeds)
            )
            figures[program] = _figures([rows[seed] for seed in seeds])
        yield Comparison(network, method, scope, target, kept, figures)


def unpruned(contents: Sequence[Mapping[str, Any]], network: str) -> dict[str, Figure]:
    """Accuracies of the unpruned network."""
    own = [content['rows'] for content in contents if content['network'] == network]
    return _figures([row for rows in own for row in rows if row['target'] == 1])


def _figures(rows: Rows) -> dict[str, Figure]:
    """The accuracies that some rows have."""
    found = {m: tuple(row[m] for row in rows if m in row) for m in MEASURES}
    return {measure: Figure(values) for measure, values in found.items() if values}
