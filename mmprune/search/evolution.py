"""Search by evolution, as users of MMRazor know it."""

from typing import Any

from mmprune.errors import InputError
from mmprune.registry import LOOPS
from mmprune.search.optuna_search import OptunaSearchLoop
from mmprune.search.sampling import Sampling


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

    def _sampling(self, seed: int | None = None, **options: Any) -> Sampling:
        def best(study: Any, population: list[Any]) -> list[Any]:
            return sorted(population, key=lambda trial: trial.values)[: self.top_k]

        if len(self.objectives) == 1:
            options['elite_population_selection_strategy'] = best
        return super()._sampling(seed, **options)
