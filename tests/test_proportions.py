"""Sets of channels that shrink in proportion, and constraints that say something else."""

import itertools

import numpy as np
import pytest

from mmprune.channels import EqualBlocks
from mmprune.channels.constraints import Shrinking, select
from mmprune.channels.proportions import proportions


def found(*constraints):
    linked = proportions([np.array(rows) for rows in constraints])
    if linked is None:
        return None
    return [sorted((sets.tolist(), weight) for sets, weight in group) for group in linked]


HEADS = [[0, 1], [2, 3], [4, 5]]
WIDTH = list(range(6))


def test_blocks_of_one_constraint_shrink_alike():
    assert found(HEADS) == [[([0, 1], 1), ([2, 3], 1), ([4, 5], 1)]]


def test_a_block_may_be_made_up_of_others():
    residual = list(range(6, 12))
    assert found(HEADS, [WIDTH, residual]) == [
        [([0, 1], 1), ([2, 3], 1), ([4, 5], 1), (residual, 3)]
    ]
    # The order in which the constraints come does not matter.
    assert found([WIDTH, residual], HEADS) == found(HEADS, [WIDTH, residual])


def test_heads_that_count_twice_halve_what_they_are_compared_with():
    assert found([[0, 0], [1, 2]]) == [[([0], 1), ([1, 2], 2)]]


def test_sets_that_have_nothing_to_do_with_each_other_stay_apart():
    assert found([[0, 1], [2, 3]], [[4, 5], [6, 7]]) == [
        [([0, 1], 1), ([2, 3], 1)],
        [([4, 5], 1), ([6, 7], 1)],
    ]


@pytest.mark.parametrize(
    'constraints',
    [
        [[[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4]]],
        [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[0, 1, 4, 5], [8, 9, 10, 11]]],
        [[[0, 0, 1], [2, 3, 4]]],
    ],
    ids=['overlap in part', 'sum of independent sets', 'counted unevenly'],
)
def test_what_is_no_proportion_is_left_to_the_program(constraints):
    assert found(*constraints) is None


def test_choices_agree_with_all_valid_masks():
    """Of the valid masks of that size none has higher scores."""
    random = np.random.default_rng(0)
    constraints = (
        EqualBlocks(np.array(HEADS), 'heads'),
        EqualBlocks(np.array([WIDTH, list(range(6, 12))]), 'one width'),
    )
    assert proportions([c.blocks for c in constraints]) is not None
    masks = [np.array(bits) for bits in itertools.product([False, True], repeat=12)]
    valid = [mask for mask in masks if all(c.holds(mask) for c in constraints)]
    for count in range(1, 13):
        scores = random.normal(size=12)
        mask = select(scores, count, Shrinking.of(len(scores), constraints))
        assert all(c.holds(mask) for c in constraints)
        assert abs(mask.sum() - max(count, 6)) <= 3  # one channel of every head, and three
        same = [scores[other].sum() for other in valid if other.sum() == mask.sum()]
        assert scores[mask].sum() == pytest.approx(max(same))
