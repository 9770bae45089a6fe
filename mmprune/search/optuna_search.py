"""Search by a sampler of Optuna, under a budget that holds before anything is evaluated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.progress import Progress

from mmprune.errors import InputError
from mmprune.pruners.search_space import Choices, nearest_within
from mmprune.registry import LOOPS
from mmprune.search.budget import Budget
from mmprune.search.compared import rule_of, smaller_is_better
from mmprune.search.history import Evaluation
from mmprune.search.sampling import Sampling
from mmprune.search.search_loop import SearchLoop, Subnet, in_words

_COSTS = ('macs', 'params', 'latency')
# How many proposals in a row may be known already before a search ends.
_IDLE = 200

Found = list[tuple[Subnet, Evaluation]]


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
        start: What is evaluated first: ``'uniform'`` (all groups as wide as the budget lets them be
            together), ``'smallest'``, and files of channel configs; each brought within the budget.
        shares: The shares of a group's channels to choose from; the pruner's own if None.
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
        objectives: Sequence[str] = ('metric',),
        start: Sequence[str] = ('uniform',),
        shares: Sequence[float] | None = None,
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
        if constraints is None and not set(self.objectives) & set(_COSTS):
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
        self.candidates = candidates
        self.sampler, self.sampler_options = sampler, dict(sampler_options or {})
        self.start = [start] if isinstance(start, str) else list(start)
        self._starts = {each: self._wish(each) for each in self.start}
        self._sampling()  # refuses what it does not know before anything is evaluated

    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on.

        How many candidates there are is not in it: a search may be resumed with more of them.
        """
        return {
            'sampler': self.sampler,
            'sampler_options': repr(sorted(self.sampler_options.items(), key=lambda item: item[0])),
            'objectives': self.objectives,
            'start': list(self._starts.values()),
            'space': {space_id: list(widths) for space_id, widths in self.space.items()},
            'budgets': [str(budget) for budget in self.budgets],
        }

    def expected(self) -> int:
        """All candidates of all budgets, at most."""
        return len(self.budgets) * self.candidates

    def search(self, progress: Progress) -> Iterator[tuple[Budget, Subnet, Evaluation]]:
        """Yield the best subnet within each budget, or those that no other one beats."""
        for budget in self.budgets:
            found = self._search(budget, progress)
            if len(self.objectives) == 1:
                yield budget, *min(found, key=lambda pair: self._key(pair[1]))
                continue
            for number, pair in enumerate(self._front(found)):
                yield replace(budget, label=f'{budget.label}_{number}'), *pair

    def _search(self, budget: Budget, progress: Progress) -> Found:
        """Evaluate candidates within a budget."""
        task = progress.add_task(f'{self.sampler} {budget.label}', total=self.candidates, note='')
        sampling = self._sampling()
        for wish in self._starts.values():
            sampling.start_from(self._within(budget, wish))
        known: set[tuple[int, ...]] = set()
        found: Found = []
        best: Evaluation | None = None
        asked = idle = 0
        while len(found) < self.candidates and idle < _IDLE and not sampling.is_exhausted:
            proposed, noted = sampling.ask()
            levels = tuple(self._within(budget, self.space.at(proposed)))
            origin = self.start[asked] if asked < len(self.start) else f'{self.sampler} {asked}'
            asked, idle = asked + 1, idle + 1
            if levels in known:
                continue
            subnet, idle = self.space.subnet_at(levels), 0
            evaluation = self.evaluate(subnet, origin)
            known.add(levels)
            found.append((subnet, evaluation))
            sampling.tell(
                levels, [self._value(evaluation, name) for name in self.objectives], noted
            )
            best = min(best or evaluation, evaluation, key=self._key)
            progress.update(task, advance=1, note=f'best {self.metric} {in_words(best.metric)}')
        if len(found) < self.candidates:
            self.runner.logger.info(
                f'{self.sampler} proposes nothing new: {len(found)} candidates for {budget.label}'
            )
        return found

    def _sampling(self, **options: Any) -> Sampling:
        """Return a sampler that has seen nothing, with the config's options and further ones."""
        sizes = {space_id: len(widths) for space_id, widths in self.space.items()}
        options = {**self.sampler_options, **options}
        return Sampling(self.sampler, options, self.seed, sizes, len(self.objectives))

    def _within(self, budget: Budget, wish: Choices) -> list[int]:
        """Return the levels nearest to a wish that are within the budget."""

        def fits(rows: Sequence[Sequence[int]]) -> list[bool]:
            subnets = [self.space.subnet_at(levels) for levels in rows]
            return [budget.fits(cost) for cost in self.costs(subnets, self.space.widths_at(rows))]

        found = nearest_within(self.space, wish, fits)
        assert found is not None  # the smallest subnet is
        return self.space.levels(found)

    def _wish(self, start: str) -> dict[str, int]:
        """Return the choices that a start point stands for, before any budget."""
        if start == 'uniform':
            return self.space.at([len(widths) - 1 for widths in self.space.values()])
        if start == 'smallest':
            return self.space.at([0] * len(self.space))
        subnet = self.pruner.load_channel_cfg(start)
        return {space_id: int(mask.sum()) for space_id, mask in subnet.items()}

    def _value(self, evaluation: Evaluation, objective: str) -> float:
        """Return an objective of a candidate, to be minimised."""
        if objective in _COSTS:
            return float(getattr(evaluation, objective))
        if objective == 'metric':
            return smaller_is_better(evaluation.metric, self.rule)
        return smaller_is_better(evaluation.metrics.get(objective), rule_of(objective))

    def _key(self, evaluation: Evaluation) -> tuple[float, float, int]:
        """Return a sort key: the best candidate by the first objective has the smallest."""
        return self._value(evaluation, self.objectives[0]), evaluation.macs, evaluation.index

    def _front(self, found: Found) -> Found:
        """Return the candidates that no other one beats, the cheapest first."""
        values = [[self._value(e, name) for name in self.objectives] for _, e in found]
        return [
            pair
            for pair, mine in sorted(
                zip(found, values, strict=True), key=lambda each: each[0][1].macs
            )
            if not any(
                other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
                for other in values
            )
        ]


@LOOPS.register_module()
class EvolutionSearchLoop(OptunaSearchLoop):
    """Mutation and crossover of the best subnets within a budget, by NSGA-II with repair.

    Args:
        args: As in :class:`SearchLoop`.
        max_epochs: Populations, the first random one included.
        population_size: Candidates per population.
        top_k: How many of the best have children, 2 or more; with several objectives as many as
            a population has.
        num_mutation: Weight of children of one parent.
        num_crossover: Weight of children of two parents. Both kinds are mutated.
        mutate_prob: Probability of each group of a child to be drawn anew.
        kwargs: As in :class:`OptunaSearchLoop`, ``constraints`` among them.

    Raises:
        InputError: If a budget cannot be met, or the numbers make no sense.
    """

    def __init__(
        self,
        *args: Any,
        max_epochs: int = 20,
        population_size: int = 50,
        top_k: int = 10,
        num_mutation: int = 25,
        num_crossover: int = 25,
        mutate_prob: float = 0.1,
        **kwargs: Any,
    ) -> None:
        numbers = dict(
            max_epochs=max_epochs,
            population_size=population_size,
            top_k=top_k,
            num_mutation=num_mutation,
            num_crossover=num_crossover,
        )
        if min(max_epochs, population_size, top_k) < 1 or min(num_mutation, num_crossover) < 0:
            raise InputError(f'An evolution search cannot run with {numbers}.')
        if num_mutation + num_crossover > population_size:
            raise InputError(
                f'num_mutation + num_crossover is {num_mutation + num_crossover}, more than the '
                f'population_size of {population_size}.'
            )
        if not 0 < mutate_prob <= 1:
            raise InputError(f'mutate_prob must be in (0, 1], got {mutate_prob}.')
        options = dict(
            population_size=max(population_size, 2),
            crossover_prob=num_crossover / max(num_mutation + num_crossover, 1),
            mutation_prob=mutate_prob,
        )
        self.top_k = max(top_k, 2)
        super().__init__(
            *args,
            sampler='NSGAII',
            sampler_options=options,
            candidates=max_epochs * population_size,
            **kwargs,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on."""
        return {**super().settings(), 'top_k': self.top_k}

    def _sampling(self, **options: Any) -> Sampling:
        def best(study: Any, population: list[Any]) -> list[Any]:
            return sorted(population, key=lambda trial: trial.values)[: self.top_k]

        if len(self.objectives) == 1:
            options['elite_population_selection_strategy'] = best
        return super()._sampling(**options)
