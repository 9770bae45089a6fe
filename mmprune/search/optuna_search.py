"""Search by a sampler of Optuna, under a budget that holds before anything is evaluated."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4
from zlib import crc32

from rich.progress import Progress

from mmprune.errors import InputError
from mmprune.pruners.search_space import Choices, nearest_within
from mmprune.registry import LOOPS
from mmprune.search.budget import COSTS, Budget
from mmprune.search.candidates import smaller_is_better
from mmprune.search.history import Evaluation, subnet_key
from mmprune.search.judging import Subnet
from mmprune.search.progress import in_words
from mmprune.search.sampling import Hopeless, Sampling
from mmprune.search.search_loop import POLL, SearchLoop
from mmprune.search.starts import BY_IMPORTANCE, start_point
from mmprune.search.study import on_main

# How many proposals in a row may be known already before a search ends.
_IDLE = 200

_LARGEST_NOTE = 20_000
# What a sampler notes of a proposal is only stored up to so many characters: other workers do
# without it, and the first one notes the same again.


@LOOPS.register_module(name=['OptunaSearchLoop', 'SearchLoop'])
class OptunaSearchLoop(SearchLoop):
    """Evaluates what a sampler of Optuna proposes, brought within a budget.

    The sampler chooses a width of every group, among those of ``pruner.search_space``. A proposal
    over the budget is repaired before it is evaluated: all groups give up about the same share, and
    none is left that could be a step wider (``pruner.repair``). The sampler learns of what was
    evaluated, not of what it proposed. No subnet is evaluated twice.

    Args:
        args: As in :class:`SearchLoop`.
        constraints: The budget: ``dict(macs=..., params=..., latency=...)``, each a number
            (milliseconds, for the latency) or a fraction of the full network's
            (0 < x <= 1); or a list of budgets, which are searched one after the other.
            A limit of latency needs a table, ``latency=<file>``. None: no limit.
        candidates: How many subnets are evaluated for each budget, at most.
        sampler: A sampler of Optuna: ``'NSGAII'``, ``'NSGAIII'``, ``'TPE'``, ``'CmaEs'``, ``'GP'``,
            ``'Random'``, ``'QMC'``, ``'Grid'``.
        sampler_options: The sampler's own options.
        objectives: What is optimised: ``'metric'``, which is the one that the search compares;
            other values of the evaluator by name; and ``'macs'``, ``'params'`` and ``'latency'``,
            of which less is better. With several, all subnets are written that no other one beats
            in all of them.
        start: What is evaluated first, each brought within the budget: ``'uniform'`` or
            ``'largest'`` (all groups as wide as the budget lets them be together), ``'smallest'``,
            ``'importance'`` (the lowest scores of all groups go until the budget is met), files of
            channel configs, and of ratios, as ``tools/sensitivity.py`` writes them.
        shares: The shares of a group's channels to choose from; the pruner's own if None.
        hopeless: Leave a candidate that promises nothing after a few batches, as a pruner of
            Optuna's says: the arguments of :class:`Hopeless`. It is compared with others of its
            budget, and counts as one that could not be measured.
        kwargs: As in :class:`SearchLoop`.

    Raises:
        InputError: A budget cannot be met, nothing limits a search for the best metric alone,
            or there is no such sampler, option, objective or start.
    """

    def __init__(
        self,
        *args: Any,
        constraints: dict[str, float] | list[dict[str, float]] | None = None,
        candidates: int = 200,
        sampler: str = 'NSGAII',
        sampler_options: Mapping[str, Any] | None = None,
        objectives: str | Sequence[str] = ('metric',),
        start: str | Sequence[str] = ('uniform',),
        shares: Sequence[float] | None = None,
        hopeless: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if candidates < 1:
            raise InputError(f'candidates must be 1 or more, got {candidates}.')
        self.objectives = [objectives] if isinstance(objectives, str) else list(objectives)
        if not self.objectives or ('latency' in self.objectives and self.latency is None):
            raise InputError(
                f'A search cannot optimise {self.objectives}: name one or several objectives; that '
                'of latency needs a table, latency=<file>.'
            )
        if constraints is None and not set(self.objectives) & set(COSTS):
            raise InputError(
                'Nothing limits this search, so that the full network would be its result: give '
                "constraints=dict(macs=0.5), or objectives=['metric', 'macs']."
            )
        listed = constraints if isinstance(constraints, list) else [constraints]
        self.budgets = [
            Budget('front') if limits is None else Budget.of(dict(limits), self.full_cost)
            for limits in listed
        ]
        self.space = self.pruner.search_space(shares)
        (smallest,) = self.costs([self.space.subnet_at([0] * len(self.space))])
        for budget in self.budgets:
            budget.check_reachable(smallest)
        if hopeless is not None and self.objectives != ['metric']:
            raise InputError(
                'A candidate is hopeless by its metric alone: leave out `hopeless`, or optimise '
                f"['metric'], not {self.objectives}."
            )
        self.hopeless = None if hopeless is None else Hopeless(**hopeless)
        self._hopeless, self._budget = hopeless, ''
        self.candidates = candidates
        self.sampler, self.sampler_options = sampler, dict(sampler_options or {})
        self.start = [start] if isinstance(start, str) else list(start)
        self._starts = {each: start_point(each, self.pruner, self.space) for each in self.start}
        self._sampling()  # refuses what it does not know before anything is evaluated

    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on.

        How many candidates there are is not in it: a search may be resumed with more of them.
        """
        return {
            'sampler': self.sampler,
            'sampler_options': repr(sorted(self.sampler_options.items(), key=lambda item: item[0])),
            'objectives': self.objectives,
            'start': [
                each if each == BY_IMPORTANCE else wish(lambda _: True)
                for each, wish in self._starts.items()
            ],
            'space': {space_id: list(widths) for space_id, widths in self.space.items()},
            'budgets': [str(budget) for budget in self.budgets],
            **({} if self.hopeless is None else {'hopeless': repr(self._hopeless)}),
        }

    def expected(self) -> int:
        """All candidates of all budgets, at most."""
        return len(self.budgets) * self.candidates

    def search(self, progress: Progress) -> Iterator[tuple[Budget, Subnet, Evaluation]]:
        """Yield the best subnet within each budget, or those that no other one beats."""
        for budget in self.budgets:
            found = self._search(budget, progress)
            if len(self.objectives) == 1:
                best = min(found, key=self.rank)
                yield budget, self._subnet(best), best
                continue
            for number, each in enumerate(self._front(found)):
                labelled = replace(budget, label=f'{budget.label}_{number}')
                yield labelled, self._subnet(each), each

    def _search(self, budget: Budget, progress: Progress) -> list[Evaluation]:
        """Evaluate candidates within a budget, together with other workers."""
        self._budget = budget.label
        task = progress.add_task(f'{self.sampler} {budget.label}', total=self.candidates, note='')
        proposals = _Proposals(self, budget)
        while True:
            self.study.refresh()
            done = proposals.learn()
            taken = sum(each.budget == budget.label for each in self.study.claims.values())
            best = min(self._within_budget(budget), key=self.rank, default=None)
            note = '' if best is None else f'best {self.metric} {in_words(best.metric)}'
            if self.study.claims:
                note += f', {1 + len(self.study.claims)} workers'
            progress.update(task, completed=done, note=note)
            if done + taken < self.candidates and not proposals.are_exhausted:
                proposals.evaluate_next()
            elif taken:
                time.sleep(POLL)
            else:
                break
        if done < self.candidates:
            self.runner.logger.info(
                f'{self.sampler} proposes nothing new: {done} candidates for {budget.label}'
            )
        return self._within_budget(budget)

    def _measure(self, subnet: Subnet) -> dict[str, float]:
        if self.hopeless is None:
            return super()._measure(subnet)
        return self._judged(subnet, partial(self._metrics_if_hopeful, self.hopeless))

    def _metrics_if_hopeful(self, hopeless: Hopeless, network: Any) -> dict[str, float]:
        """What the evaluator says of a network, or what it said when this was enough."""
        names: dict[int, str] = {}
        early: dict[str, float] = {}

        def seen(metrics: Mapping[str, float]) -> dict[int, float]:
            found = {number: metrics.get(name) for number, name in names.items()}
            return {n: smaller_is_better(v, self.rule) for n, v in found.items() if v is not None}

        for number, images in enumerate(self._shown(network), 1):
            if number not in hopeless.after or number == len(self.dataloader):
                continue
            value = self._compared(self._evaluated_so_far(images))
            names[number] = f'{self.metric} of {images} images'
            if value is None:
                continue
            early[names[number]] = value
            known = [e for e in self.study.evaluations.values() if e.budget == self._budget]
            others = [(seen(each.metrics), self._value(each, 'metric')) for each in known]
            if hopeless.is_hopeless(seen(early), others):
                self._evaluated(images)  # which forgets them
                return early
        return {**self._evaluated(len(self.dataloader.dataset)), **early}

    def _evaluated_so_far(self, images: int) -> dict[str, float]:
        """Return what the evaluator says of so many images, which it keeps."""
        kept = [list(metric.results) for metric in self.evaluator.metrics]
        found = self._evaluated(images)
        for metric, results in zip(self.evaluator.metrics, kept, strict=True):
            metric.results = results
        return found

    def _within_budget(self, budget: Budget) -> list[Evaluation]:
        """Return all that is known within a budget, whatever it was evaluated for."""
        return [each for each in self.study.evaluations.values() if budget.fits(each.cost)]

    def _sampling(self, seed: int | None = None, **options: Any) -> Sampling:
        """Return a sampler that has seen nothing.

        Args:
            seed: Of what it draws; the config's if None.
            options: Further ones than the config's.
        """
        sizes = {space_id: len(widths) for space_id, widths in self.space.items()}
        options = {**self.sampler_options, **options}
        if seed is not None:
            options['seed'] = seed
        return Sampling(self.sampler, options, self.seed, sizes, len(self.objectives))

    def _within(self, budget: Budget, wish: Choices) -> list[int]:
        """Return the levels nearest to a wish that are within the budget."""
        found = nearest_within(self.space, wish, partial(self._fit, budget))
        assert found is not None  # the smallest subnet is
        return self.space.levels(found)

    def _fit(self, budget: Budget, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each of several subnets, by their levels, is within a budget."""
        subnets = [self.space.subnet_at(levels) for levels in rows]
        return [budget.fits(cost) for cost in self.costs(subnets, self.space.widths_at(rows))]

    def _begin_at(self, budget: Budget, start: str) -> list[int]:
        """Return the levels of a start point within the budget."""
        wish = self._starts[start](lambda wish: self._fit(budget, [self.space.levels(wish)])[0])
        return self._within(budget, wish)

    def _subnet(self, evaluation: Evaluation) -> Subnet:
        return self.space.subnet(evaluation.channels)

    def _front(self, found: list[Evaluation]) -> list[Evaluation]:
        """Return the candidates that no other one beats, the cheapest first."""
        values = [[self._value(each, name) for name in self.objectives] for each in found]
        return [
            each
            for each, mine in sorted(zip(found, values, strict=True), key=lambda pair: pair[0].macs)
            if not any(
                other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
                for other in values
            )
        ]


class _Proposals:
    """What a worker's sampler proposes within a budget, and learns from all workers.

    The first worker draws from the search's seed. Nothing that it draws depends on anything else
    than this and what is known, so that a search that is resumed asks its sampler as often as it
    was asked, tells it what came of that, and goes on as if it had never been stopped. A worker
    that finds another one at what it proposes draws from a seed of its own from there on.

    Args:
        loop: The search.
        budget: The budget.
    """

    def __init__(self, loop: OptunaSearchLoop, budget: Budget) -> None:
        self.loop, self.budget = loop, budget
        self.starts = {name: loop._begin_at(budget, name) for name in loop.start}
        self._begin()

    def _begin(self, seed: int | None = None) -> None:
        self.sampling = self.loop._sampling(seed)
        self.is_first = seed is None
        for levels in self.starts.values():
            self.sampling.start_from(levels)
        self.asked = self.idle = self.done = 0
        self.noted: Mapping[str, Any] = {}
        self.told: set[str] = set()

    @property
    def are_exhausted(self) -> bool:
        """Whether nothing new is to be expected."""
        return self.idle >= _IDLE or self.sampling.is_exhausted

    def learn(self) -> int:
        """Tell the sampler what has been found; return how many candidates of the budget are."""
        loop = self.loop
        known = sorted(loop._within_budget(self.budget), key=lambda each: each.index)
        for each in (each for each in known if each.key not in self.told):
            is_own = each.budget in (None, self.budget.label)
            noted: Mapping[str, Any] = each.noted if is_own else {}
            if is_own and self.is_first and each.asked is not None:
                while self.asked < each.asked:
                    self.ask()
                noted = noted or self.noted
            values = [loop._value(each, name) for name in loop.objectives]
            self.sampling.tell(loop.space.levels(each.channels), values, noted)
            self.told.add(each.key)
            self.done += is_own
        return self.done

    def ask(self) -> list[int]:
        """The sampler's next levels."""
        levels, self.noted = self.sampling.ask()
        self.asked += 1
        return levels

    def evaluate_next(self) -> None:
        """Evaluate the next proposal if it is new."""
        loop, number = self.loop, self.asked
        levels = loop._within(self.budget, loop.space.at(self.ask()))
        origin = [*self.starts][number] if number < len(self.starts) else f'{loop.sampler} {number}'
        subnet = loop.space.subnet_at(levels)
        key = subnet_key(subnet)
        self.idle += 1
        if key in loop.study.evaluations:
            return
        noted = self.noted if len(json.dumps(self.noted)) <= _LARGEST_NOTE else {}
        found = loop.take(
            subnet,
            origin,
            budget=self.budget.label,
            asked=self.asked if self.is_first else None,
            noted=dict(noted),
        )
        if found is not None:
            self.idle = 0
        elif self.is_first:
            self._begin(on_main(lambda: crc32(f'{loop.seed} {uuid4()}'.encode())))
