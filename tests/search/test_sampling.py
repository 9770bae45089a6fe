"""Optuna's samplers over levels of widths: what they propose depends on seed and answers alone."""

from typing import Any

import pytest

from mmprune.errors import InputError
from mmprune.search.sampling import Sampling

SIZES = {f'group{number}': 4 for number in range(6)}


def proposals(sampler: str, options: dict[str, Any], objectives: int, seed: int) -> list[list[int]]:
    """What a sampler proposes, told of levels that were repaired, or of nothing measured."""
    sampling = Sampling(sampler, options, seed, SIZES, objectives)
    sampling.start_from([3] * 6)
    found = []
    for number in range(30):
        levels, noted = sampling.ask()
        found.append(levels)
        repaired = [min(level, 2) for level in levels]
        value = float('inf') if number % 7 == 3 else sum(i * x for i, x in enumerate(repaired))
        sampling.tell(repaired, [value, -sum(repaired)][:objectives], noted)
    return found


@pytest.mark.parametrize(
    ('sampler', 'options', 'objectives'),
    [
        ('NSGAII', {'population_size': 4}, 1),
        ('NSGAIISampler', {'population_size': 4}, 2),
        ('NSGAIII', {'population_size': 4}, 2),
        ('TPE', {'n_startup_trials': 5}, 1),
        ('TPE', {'n_startup_trials': 5}, 2),
        ('CmaEs', {}, 1),
        ('Random', {}, 1),
        ('QMC', {}, 1),
    ],
)
def test_the_same_seed_and_answers_give_the_same_proposals(
    sampler: str, options: dict[str, Any], objectives: int
) -> None:
    found = proposals(sampler, options, objectives, seed=0)
    assert found == proposals(sampler, options, objectives, seed=0)
    assert found[0] == [3] * 6
    assert all(0 <= level < 4 for levels in found for level in levels)
    if sampler != 'Random':
        # What was told makes a difference: this is no random search.
        assert found != proposals('Random', {}, objectives, seed=0)
    if sampler != 'QMC':
        assert found != proposals(sampler, options, objectives, seed=1)


def test_children_are_of_the_subnets_that_were_told() -> None:
    sampling = Sampling('NSGAII', {'population_size': 2, 'mutation_prob': 0.0}, 0, SIZES)
    for levels in ([1] * 6, [2] * 6):
        _, noted = sampling.ask()
        sampling.tell(levels, [sum(levels)], noted)
    for _ in range(5):
        assert set(sampling.ask()[0]) <= {1, 2}


def test_a_grid_is_proposed_once_and_then_exhausted() -> None:
    sampling = Sampling('Grid', {}, 0, {'a': 2, 'b': 3})
    seen = []
    while not sampling.is_exhausted:
        levels, noted = sampling.ask()
        seen.append(tuple(levels))
        sampling.tell(levels, [0.0], noted)
    assert sorted(seen) == [(a, b) for a in range(2) for b in range(3)]


@pytest.mark.parametrize(
    ('sampler', 'options', 'message'),
    [
        ('NSGA2', {}, r"has no NSGA2Sampler; did you mean 'NSGAIISampler'"),
        ('NSGAII', {'population': 4}, "no option 'population'; did you mean 'population_size'"),
        ('NSGAII', {'population_size': 1}, 'NSGAIISampler.*greater than or equal to 2'),
        ('Grid', {}, r'a grid of 1,152,921,504,606,846,976 subnets.*shares=\[0\.5, 1\.0\]'),
    ],
)
def test_samplers_that_there_are_not(sampler: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(sampler, options, 0, {str(number): 4 for number in range(30)})


def test_without_optuna_the_message_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmprune.dependencies.find_version', lambda dependency: None)
    monkeypatch.setattr(
        'mmprune.dependencies.problem_of',
        lambda dependency, find: f'What to do: {dependency.remedy}',
    )
    with pytest.raises(InputError, match=r"sampler 'TPE' of a search needs optuna.*pip install"):
        Sampling('TPE', {}, 0, SIZES)
