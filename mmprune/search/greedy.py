"""Greedy slimming: drop what hurts least, again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress
from torch import Tensor

from mmprune.errors import InputError
from mmprune.pruners import StructurePruner
from mmprune.registry import LOOPS
from mmprune.search.budget import Budget, Cost
from mmprune.search.history import Evaluation
from mmprune.search.progress import in_words
from mmprune.search.search_loop import SearchLoop, Subnet

Bins = dict[str, Tensor]


@dataclass(frozen=True)
class _Width:
    """A subnet that is described by how many bins each group keeps."""

    bins: Bins
    subnet: Subnet
    cost: Cost
    origin: str


@LOOPS.register_module()
class GreedySearchLoop(SearchLoop):
    """AutoSlim's greedy slimming (Yu and Huang, "AutoSlim", 2019, section 3.3).

    Every group's channels are cut into bins. From the full width, each round
    evaluates all the subnets that have one bin less in one group, and goes on
    from the best of them, until the first target is met; from there to the
    next one. Of equally good candidates the cheapest is taken, so that no
    round is spent on a bin that saves nothing.

    Args:
        args: As in :class:`SearchLoop`.
        targets: The budgets: MACs, or fractions of the full network's (0 < x <= 1).
        max_channel_bins: Bins per group, 2 or more.
        min_channel_bins: No group keeps fewer bins than this; by default as few as the
            narrowest width in training (the pruner's ``set_min_channel``) has.
        kwargs: As in :class:`SearchLoop`.

    Raises:
        InputError: If there is no target, one is not above 0 or cannot be
            reached, the numbers of bins make no sense, or ``min_channel_bins`` allows widths
            that were never trained.
    """

    def __init__(
        self,
        *args: Any,
        targets: Sequence[float],
        max_channel_bins: int = 12,
        min_channel_bins: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not targets:
            raise InputError('A greedy search needs at least one target, got none.')
        self.max_channel_bins = max_channel_bins
        if max_channel_bins < 2 or not 1 <= (min_channel_bins or 1) < max_channel_bins:
            raise InputError(
                'A greedy search needs 1 <= min_channel_bins < max_channel_bins, got '
                f'{min_channel_bins} and {max_channel_bins}.'
            )
        trained, narrower = fewest_trained_bins(self.pruner, max_channel_bins)
        if min_channel_bins is not None and min_channel_bins < trained:
            raise InputError(
                f'min_channel_bins={min_channel_bins} of {max_channel_bins} allows widths that '
                f'were never trained: {narrower}. Leave min_channel_bins out, or give {trained} '
                'or more.'
            )
        self.min_channel_bins = min_channel_bins = min_channel_bins or trained
        budgets = [Budget.of({'macs': target}, self.full_cost) for target in targets]
        self.budgets = sorted(budgets, key=lambda budget: -(budget.macs or 0))
        self.budgets[-1].check_reachable(self._width_of_all(min_channel_bins).cost)

    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on.

        The targets are not in it: a search may be resumed with more of them.
        """
        return {
            'max_channel_bins': self.max_channel_bins,
            'min_channel_bins': self.min_channel_bins,
        }

    def expected(self) -> int:
        """Candidates of a search that narrows all groups alike: others close groups earlier."""
        kept = dict.fromkeys(self.pruner.channel_spaces, self.max_channel_bins)
        target, candidates = self.budgets[-1], 1
        while kept:
            bins = self.pruner.get_max_channel_bins(self.max_channel_bins)
            width = self._width({s: _first(bins[s], number) for s, number in kept.items()}, '')
            open_groups = [s for s, number in kept.items() if number > self.min_channel_bins]
            if target.fits(width.cost) or not open_groups:
                break
            candidates += len(open_groups)
            kept[max(open_groups, key=kept.__getitem__)] -= 1
        return candidates

    def search(self, progress: Progress) -> Iterator[tuple[Budget, Subnet, Evaluation]]:
        """Yield the subnet at which each target is first met, widest first."""
        width = self._width_of_all(self.max_channel_bins)
        evaluation = self.evaluate(width.subnet, width.origin, width.cost)
        expected, rounds = self.expected(), 0
        task = progress.add_task('greedy slimming', total=expected, note='')
        for budget in self.budgets:
            while not budget.fits(width.cost):
                rounds += 1
                width, evaluation = self._best_narrower(width, rounds)
                done, left = (
                    len(self.study.evaluations),
                    width.cost['macs'] / self.full_cost['macs'],
                )
                note = f'{left:.0%} of the MACs: {self.metric} {in_words(evaluation.metric)}'
                progress.update(task, completed=done, total=max(expected, done), note=note)
            yield budget, width.subnet, evaluation
        progress.update(task, total=len(self.study.evaluations))

    def _best_narrower(self, width: _Width, rounds: int) -> tuple[_Width, Evaluation]:
        """Evaluate what is one bin narrower in one group; return the best."""
        candidates: list[tuple[Bins, Subnet, str]] = []
        for space_id, bins in width.bins.items():
            kept = int(bins.sum())
            # With more bins than channels some bins are empty: drop until something goes.
            for fewer in range(kept - 1, self.min_channel_bins - 1, -1):
                narrower = {**width.bins, space_id: _first(bins, fewer)}
                subnet = self.pruner.bins_to_subnet(narrower, self.max_channel_bins)
                if subnet[space_id].sum() < width.subnet[space_id].sum():
                    origin = f'{space_id} to {fewer} of {self.max_channel_bins} bins'
                    candidates.append((narrower, subnet, f'round {rounds}, {origin}'))
                    break
        costs = self.costs([subnet for _, subnet, _ in candidates])
        widths = [
            _Width(bins, subnet, cost, origin)
            for (bins, subnet, origin), cost in zip(candidates, costs, strict=True)
        ]
        found = self.evaluate_all([(each.subnet, each.origin, each.cost) for each in widths])
        return min(zip(widths, found, strict=True), key=lambda pair: self.rank(pair[1]))

    def _width_of_all(self, kept: int) -> _Width:
        """Return the subnet that keeps this many bins of every group."""
        full = self.pruner.get_max_channel_bins(self.max_channel_bins)
        bins = {space_id: _first(ones, kept) for space_id, ones in full.items()}
        return self._width(bins, f'{kept} of {self.max_channel_bins} bins everywhere')

    def _width(self, bins: Bins, origin: str) -> _Width:
        subnet = self.pruner.bins_to_subnet(bins, self.max_channel_bins)
        return _Width(bins, subnet, self.costs([subnet])[0], origin)


def fewest_trained_bins(pruner: StructurePruner, max_bins: int) -> tuple[int, str]:
    """The fewest bins at which no group is narrower than the pruner trains it.

    Args:
        pruner: Prepared; its ``set_min_channel`` says how narrow that is.
        max_bins: All bins of a group.

    Returns:
        The number, and which group one bin less would make too narrow, in words.

    Raises:
        InputError: Not even one bin of all groups may go.
    """
    least = {space_id: int(mask.sum()) for space_id, mask in pruner.smallest_subnet().items()}
    full = pruner.get_max_channel_bins(max_bins)
    too_narrow = ''
    for kept in range(1, max_bins):
        bins = {space_id: _first(ones, kept) for space_id, ones in full.items()}
        subnet = pruner.bins_to_subnet(bins, max_bins)
        widths = {space_id: int(mask.sum()) for space_id, mask in subnet.items()}
        narrow = [space_id for space_id, width in widths.items() if width < least[space_id]]
        if not narrow:
            return kept, too_narrow
        too_narrow = (
            f"{kept} of {max_bins} bins keep {widths[narrow[0]]} channels of '{narrow[0]}', which "
            f'is trained at {least[narrow[0]]} or more'
        )
    raise InputError(
        f'A greedy search has nothing to choose from: already {too_narrow or "one bin is all"}. '
        'Give more max_channel_bins, or train narrower widths.'
    )


def _first(bins: Tensor, kept: int) -> Tensor:
    """Return bins of the same length of which the first ``kept`` are 1."""
    narrower = bins.new_zeros(bins.shape)
    narrower[:kept] = 1
    return narrower
