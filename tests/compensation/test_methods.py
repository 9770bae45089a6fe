"""The algebra of one weight, beside numpy's own."""

import numpy as np
import pytest
import torch

from mmprune.compensation import LeastSquares, MeanFolding, built_method
from mmprune.compensation.problem import Problem
from mmprune.compensation.units import Place
from mmprune.errors import InputError


def problem(positions, features, outputs, places):
    """Random equations of one group, a call for each place, and their parts as one array each."""
    made = Problem(torch.randn(1, outputs, features).double())
    for place in places:
        reads = torch.randn(1, positions, features).double() + 2
        made.add(reads, torch.randn(positions, outputs).double(), None, place)
    return made, *(torch.cat(part, 1)[0].numpy() for part in (made.features, made.missing))


def lstsq(x, y, ridge):
    """|x d - y|^2 + ridge |d|^2 with rows for the ridge."""
    count = x.shape[1]
    rows = np.concatenate([x, np.sqrt(ridge) * np.eye(count)])
    return np.linalg.lstsq(rows, np.concatenate([y, np.zeros((count, y.shape[1]))]), rcond=None)[0]


@pytest.mark.parametrize('positions', [40, 5])  # more and fewer than features
@pytest.mark.parametrize('ridge', [0.0, 0.1])
def test_without_a_place_for_a_constant_it_is_lstsq(positions, ridge):
    made, x, y = problem(positions, 9, 3, [None])
    solution = LeastSquares(ridge).solve(made)
    strength = ridge * np.square(x).sum(0).mean()
    np.testing.assert_allclose(solution.matrix[0].T, lstsq(x, y, strength), rtol=1e-8, atol=1e-10)
    assert not solution.shifts


@pytest.mark.parametrize('positions', [40, 5])
def test_a_bias_is_solved_with_the_weights_and_free(positions):
    place = Place('bias')
    made, x, y = problem(positions, 9, 3, [place])
    solution = LeastSquares(0.1).solve(made)
    centred, wanted = x - x.mean(0), y - y.mean(0)
    change = lstsq(centred, wanted, 0.1 * np.square(centred).sum(0).mean())
    np.testing.assert_allclose(solution.matrix[0].T, change, rtol=1e-8, atol=1e-10)
    shift = y.mean(0) - x.mean(0) @ change
    np.testing.assert_allclose(solution.shifts[place], shift, rtol=1e-8)
    assert made.error(solution) == pytest.approx(np.square(y - x @ change - shift).sum())
    assert made.error() == pytest.approx(np.square(y).sum())


def test_without_a_ridge_a_bias_is_a_column_of_ones():
    made, x, y = problem(40, 9, 3, [Place('bias')])
    best = np.linalg.lstsq(np.concatenate([x, np.ones((40, 1))], 1), y, rcond=None)[0]
    solution = LeastSquares(0.0).solve(made)
    np.testing.assert_allclose(solution.matrix[0].T, best[:-1], rtol=1e-8)
    np.testing.assert_allclose(solution.shifts[Place('bias')], best[-1], rtol=1e-8)


def test_every_place_gets_a_constant_of_its_own():
    places = [Place('one'), Place('other'), None]
    made, x, y = problem(20, 9, 3, places)
    ones = np.kron(np.eye(3)[:, :2], np.ones((20, 1)))
    best = np.linalg.lstsq(np.concatenate([x, ones], 1), y, rcond=None)[0]
    solution = LeastSquares(0.0).solve(made)
    np.testing.assert_allclose(solution.matrix[0].T, best[:9], rtol=1e-8)
    for place, shift in zip(places, best[9:], strict=False):
        np.testing.assert_allclose(solution.shifts[place], shift, rtol=1e-8)


def test_features_that_say_the_same_twice_do_no_harm():
    made, x, _ = problem(40, 4, 3, [None])
    made.features = [torch.cat([part, part], 2) for part in made.features]
    made.matrix = torch.zeros(1, 3, 8).double()
    solution = LeastSquares(0.0).solve(made)
    np.testing.assert_allclose(solution.matrix[0, :, :4], solution.matrix[0, :, 4:], atol=1e-8)
    half = lstsq(x, made.missing[0][0].numpy(), 0.0) / 2
    np.testing.assert_allclose(solution.matrix[0, :, :4].T, half, rtol=1e-6)


def test_what_is_missing_on_average_is_folded():
    place = Place('mean', -1)
    made, _, y = problem(40, 9, 3, [place])
    solution = MeanFolding().solve(made)
    assert solution.matrix is None
    np.testing.assert_allclose(solution.shifts[place], y.mean(0))


@pytest.mark.parametrize(
    ('method', 'said'),
    [
        ('Nothing', "there is no compensation 'Nothing'"),
        (dict(type='LeastSquares', rigde=1), "LeastSquares has no option 'rigde'"),
        (dict(type='LeastSquares', ridge=-1.0), 'ridge: must be 0 or more, not -1.0'),
        (dict(type='MeanFolding', samples=0), 'samples: .* not 0'),
    ],
)
def test_what_cannot_be_built_is_told(method, said):
    with pytest.raises(InputError, match=said):
        built_method(method)


def test_a_method_that_is_built_is_taken_as_it_is():
    method = LeastSquares(0.5)
    assert built_method(method) is method
    assert built_method(dict(type='LeastSquares', ridge=0.5)).ridge == 0.5
