"""A search as one picture: its front, its course, and what it has made of every group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mmprune.fileio import atomic_path
from mmprune.search.candidates import Candidates
from mmprune.search.history import Evaluation

ENOUGH = 10
"""So many candidates say something of importances."""
_CANDIDATE, _FRONT, _CHOSEN = '#4c78a8', '#9ecae9', ('#e45756', '#f2a03d', '#54a24b', '#7a5195')
_SHOWN = 3
"""Of so many chosen subnets the widths are drawn; what lies between is left out."""


@dataclass(frozen=True)
class SearchPicture:
    """What is drawn.

    Attributes:
        title: What was searched, or for what.
        candidates: All of them.
        groups: ``space_id`` -> all channels, in order of execution.
        chosen: Names of budgets, and what was found for them.
    """

    title: str
    candidates: Candidates
    groups: dict[str, int]
    chosen: Sequence[tuple[str, Evaluation]] = ()

    @property
    def heading(self) -> str:
        """The title, and how many candidates there are."""
        return f'{self.title}: {len(self.candidates.evaluations)} candidates'

    def shown(self) -> list[tuple[int, str, Evaluation]]:
        """The chosen subnets whose widths are drawn: the first, middle and last; with places."""
        last = len(self.chosen) - 1
        places = range(last + 1) if last < _SHOWN else (0, last // 2, last)
        return [(place, *self.chosen[place]) for place in places]

    def importances(self) -> dict[str, float]:
        """How much the width of each group decides on being among the best tenth; adds up to 1.

        Watanabe et al., "PED-ANOVA", 2023, as Optuna has it. Nothing where candidates are few.
        """
        import optuna

        found = self.candidates.evaluations
        if len(found) < ENOUGH:
            return {}
        widths = {group: [each.channels[group] for each in found] for group in self.groups}
        ranges: dict[str, Any] = {
            group: optuna.distributions.IntDistribution(min(own), max(own))
            for group, own in widths.items()
        }
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
            study.add_trials(
                [
                    optuna.trial.create_trial(
                        params={group: each.channels[group] for group in self.groups},
                        distributions=ranges,
                        value=self.candidates.loss(each),
                    )
                    for each in found
                ]
            )
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def draw_search(picture: SearchPicture) -> Any:
    """Draw a search: a figure of matplotlib's.

    In an SVG file the points of candidates are the elements of the groups ``front`` and
    ``history``, in the order of ``picture.candidates``.
    """
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    width = min(max(11.0, 1.5 + 0.22 * len(picture.groups)), 30.0)
    figure = Figure(figsize=(width, 9), layout='constrained')
    figure.suptitle(picture.heading, fontsize=12, fontweight='bold', x=0.01, ha='left')
    rows = figure.add_gridspec(3, 2, height_ratios=(1.5, 1.15, 0.45), width_ratios=(1.15, 1))
    _draw_front(figure.add_subplot(rows[0, 0]), picture)
    _draw_history(figure.add_subplot(rows[0, 1]), picture)
    widths = figure.add_subplot(rows[1, :])
    importances = figure.add_subplot(rows[2, :], sharex=widths)
    _draw_widths(widths, picture)
    _draw_importances(importances, picture)
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.25, axis='y' if axes in (widths, importances) else 'both')
    return figure


def write_png(figure: Any, path: Path) -> None:
    """Write a figure as a picture of pixels, and keep its layout for other files."""
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=120)
    figure.set_layout_engine('none')  # what is laid out once stays, which takes half of the time


def _draw_front(axes: Any, picture: SearchPicture) -> None:
    candidates, full = picture.candidates, picture.candidates.full['macs']

    def points(found: Sequence[Evaluation]) -> tuple[list[float], list[float | None]]:
        return [100 * each.macs / full for each in found], [each.metric for each in found]

    front = candidates.front()
    axes.plot(*points(front), color=_FRONT, linewidth=2, drawstyle='steps-post', zorder=1,
              label='nothing cheaper is as good')  # fmt: skip
    axes.scatter(*points(candidates.evaluations), s=22, color=_CANDIDATE, alpha=0.75,
                 linewidths=0, gid='front', zorder=2, label='candidates')  # fmt: skip
    for place, (name, each) in enumerate(picture.chosen):
        label = f'chosen: {name}' if len(picture.chosen) <= _SHOWN else None
        axes.plot(*points([each]), marker='*', markersize=15, color=_colour(picture, place),
                  markeredgecolor='white', linestyle='', zorder=3, label=label)  # fmt: skip
    axes.set_xlabel('MACs, % of the full network')
    axes.set_ylabel(candidates.metric)
    axes.set_title('Front', loc='left', fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc='best')


def _draw_history(axes: Any, picture: SearchPicture) -> None:
    found = picture.candidates.evaluations
    best = accumulate(found, lambda a, b: picture.candidates.best([a, b]))
    numbers = [each.index for each in found]
    axes.step(numbers, [each.metric for each in best], where='post', color=_FRONT, linewidth=2,
              zorder=1, label='best so far')  # fmt: skip
    axes.scatter(numbers, [each.metric for each in found], s=22, color=_CANDIDATE, alpha=0.75,
                 linewidths=0, gid='history', zorder=2)  # fmt: skip
    for place, (_, each) in enumerate(picture.chosen):
        axes.plot(each.index, each.metric, marker='*', markersize=15, linestyle='', zorder=3,
                  color=_colour(picture, place), markeredgecolor='white')  # fmt: skip
    axes.set_xlabel('candidate')
    axes.set_title('Course', loc='left', fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc='best')


def _draw_widths(axes: Any, picture: SearchPicture) -> None:
    depth = np.arange(len(picture.groups))
    axes.bar(depth, [*picture.groups.values()], width=0.86, color='#e4e7eb', label='full network')
    shown = picture.shown()
    thick = 0.78 / max(len(shown), 1)
    for number, (place, name, each) in enumerate(shown):
        axes.bar(
            depth + (number - (len(shown) - 1) / 2) * thick,
            [each.channels[group] for group in picture.groups],
            width=thick,
            color=_colour(picture, place),
            label=name,
        )
    axes.set_ylabel('channels')
    axes.set_title('Widths over depth', loc='left', fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc='upper left', ncols=4)
    axes.tick_params(labelbottom=False)


def _draw_importances(axes: Any, picture: SearchPicture) -> None:
    found = picture.importances()
    depth = range(len(picture.groups))
    axes.bar(depth, [100 * found.get(group, 0) for group in picture.groups], color='#72b7b2')
    axes.set_ylabel('%')
    few = '' if found else f' (too few candidates: {ENOUGH} are needed)'
    about = f'Importance of widths for being among the best tenth by {picture.candidates.metric}'
    axes.set_title(about + few, loc='left', fontsize=10)
    small = len(picture.groups) > 40
    axes.set_xticks(depth, picture.groups, rotation=90 if small else 40, ha='right',
                    va='center' if small else 'top', rotation_mode='anchor',
                    fontsize=5 if len(picture.groups) > 100 else 7)  # fmt: skip
    axes.set_xlim(-0.6, len(picture.groups) - 0.4)


def _colour(picture: SearchPicture, place: int) -> str:
    """One colour for each subnet whose widths are drawn, and one for all others."""
    colours = {where: _CHOSEN[number] for number, (where, _, _) in enumerate(picture.shown())}
    return colours.get(place, _CHOSEN[-1])
