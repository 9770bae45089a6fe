"""Evolutionary search under a budget."""

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from rich.progress import Progress

from mmprune.errors import InputError
from mmprune.randomness import seeded
from mmprune.registry import LOOPS
from mmprune.search.budget import Budget
from mmprune.search.history import Evaluation, subnet_key
from mmprune.search.search_loop import SearchLoop, Subnet

# How often a candidate is drawn again because it is known already.
_TRIES = 20
# How often all groups of a candidate are drawn anew, before the narrowest is taken.
_SWEEPS = 50

Pool = list[tuple[Subnet, Evaluation]]


@LOOPS.register_module()
class EvolutionSearchLoop(SearchLoop):
    """Mutation and crossover of the best subnets within a budget.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform
    Sampling", 2020, section 3.4. The first population is random. Each later
    one has children of the ``top_k`` best candidates so far, and new random
    ones for the rest. A candidate over the budget is narrowed, one random
    group after the other, until it fits; it is never evaluated before that.

    Args:
        args: As in :class:`SearchLoop`.
        constraints: The budget: ``dict(macs=..., params=..., latency=...)``, each a number
            (milliseconds, for the latency) or a fraction of the full network's
            (0 < x <= 1); or a list of budgets, which are searched one after the other.
            A limit of latency needs a table, ``latency=<file>``.
        max_epochs: Populations, the first random one included.
        population_size: Candidates per population.
        top_k: How many of the best have children.
        num_mutation: Children per population that are changed copies.
        num_crossover: Children per population of two parents.
        mutate_prob: Probability of each group of a copy to be drawn anew.
        kwargs: As in :class:`SearchLoop`.

    Raises:
        InputError: If a budget cannot be met, or the numbers make no sense.
    """

    def __init__(
        self,
        *args: Any,
        constraints: dict[str, float] | list[dict[str, float]],
        max_epochs: int = 20,
        population_size: int = 50,
        top_k: int = 10,
        num_mutation: int = 25,
        num_crossover: int = 25,
        mutate_prob: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
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
        self.numbers = numbers
        self.mutate_prob = mutate_prob
        listed = constraints if isinstance(constraints, list) else [constraints]
        self.budgets = [Budget.of(dict(limits), self.full_cost) for limits in listed]
        for budget in self.budgets:
            budget.check_reachable(self.smallest_cost)
        self._narrowest = self._narrowest_subnet()

    def settings(self) -> dict[str, Any]:
        """Return what the course of this search depends on."""
        return {
            **self.numbers,
            'mutate_prob': self.mutate_prob,
            'budgets': [str(budget) for budget in self.budgets],
        }

    def expected(self) -> int:
        """All populations of all budgets, at most."""
        return len(self.budgets) * self.numbers['max_epochs'] * self.numbers['population_size']

    def search(self, progress: Progress) -> Iterator[tuple[Budget, Subnet, Evaluation]]:
        """Yield the best subnet within each budget."""
        total = self.expected() // len(self.budgets)
        for budget in self.budgets:
            task = progress.add_task(f'evolution {budget.label}', total=total, note='')
            pool: Pool = []
            seeds = count(self.seed)
            for epoch in range(self.numbers['max_epochs']):
                parents = self._best(pool)
                for origin, make in self._population(parents):
                    subnet = self._new(make, budget, pool, seeds)
                    if subnet is not None:
                        evaluation = self.evaluate(subnet, f'epoch {epoch + 1}, {origin}')
                        pool.append((subnet, evaluation))
                    best = self._best(pool)[0][1].metric
                    progress.update(task, advance=1, note=f'best {self.metric} {best:.4f}')
            yield budget, *self._best(pool)[0]

    def _best(self, pool: Pool) -> Pool:
        return sorted(pool, key=lambda pair: self.rank(pair[1]))[: self.numbers['top_k']]

    def _population(self, parents: Pool) -> Iterator[tuple[str, Callable[[], Subnet]]]:
        """Yield where each candidate of the next population comes from, and how to draw it."""
        num_mutation = self.numbers['num_mutation'] if parents else 0
        num_crossover = self.numbers['num_crossover'] if parents else 0
        num_random = self.numbers['population_size'] - num_mutation - num_crossover
        subnets = [subnet for subnet, _ in parents]
        for _ in range(num_mutation):
            yield 'mutation', lambda: self._mutated(random.choice(subnets))
        for _ in range(num_crossover):
            yield 'crossover', lambda: _crossed(random.choice(subnets), random.choice(subnets))
        for _ in range(num_random):
            yield 'random', self.pruner.sample_subnet

    def _new(
        self, make: Callable[[], Subnet], budget: Budget, pool: Pool, seeds: Iterator[int]
    ) -> Subnet | None:
        """Draw a candidate within the budget that is not in the pool; None if there seems none.

        Every draw has a seed of its own: what a candidate is depends on its
        number and its parents, not on what drew random numbers in between.
        """
        known = {evaluation.key for _, evaluation in pool}
        for _ in range(_TRIES):
            with seeded(next(seeds)):
                subnet = self._within(budget, make())
            if subnet_key(subnet) not in known:
                return subnet
        return None

    def _mutated(self, parent: Subnet) -> Subnet:
        """Return a copy in which some groups, at least one, are drawn anew."""
        drawn = self.pruner.sample_subnet()
        always = random.choice(sorted(parent))
        return {
            space_id: drawn[space_id]
            if space_id == always or random.random() < self.mutate_prob
            else mask
            for space_id, mask in parent.items()
        }

    def _within(self, budget: Budget, subnet: Subnet) -> Subnet:
        """Narrow groups in random order until the subnet is within the budget."""
        subnet = dict(subnet)
        space_ids = sorted(subnet)
        for sweep in range(_SWEEPS + 1):
            # The last sweep ends at the narrowest subnet, which is within the budget.
            drawn = self.pruner.sample_subnet() if sweep < _SWEEPS else self._narrowest
            random.shuffle(space_ids)
            way = [subnet]
            for space_id in space_ids:
                if drawn[space_id].sum() < subnet[space_id].sum():
                    way.append({**way[-1], space_id: drawn[space_id]})
            for subnet, cost in zip(way, self.costs(way), strict=True):
                if budget.fits(cost):
                    return subnet
        return subnet

    def _narrowest_subnet(self) -> Subnet:
        before = self.pruner.current_subnet()
        self.pruner.set_min_channel()
        narrowest = self.pruner.current_subnet()
        self.pruner.set_subnet(before)
        return narrowest


def _crossed(first: Subnet, second: Subnet) -> Subnet:
    """Return a child that has each group from one of two parents."""
    return {space_id: random.choice((first, second))[space_id] for space_id in first}
