"""Cutting tensors, against boolean indexing in numpy, on random masks."""

import itertools

import numpy as np
import pytest
import torch

from mmprune.layers import cut_of_masks, plain_cut
from mmprune.layers.take import LARGE


def random_mask(random, size, kind):
    """A bool mask with at least one kept element."""
    mask = np.zeros(size, bool)
    if kind == 'prefix':
        mask[: random.integers(1, size + 1)] = True
    elif kind == 'run':
        start = random.integers(0, size)
        mask[start : random.integers(start + 1, size + 1)] = True
    elif kind == 'full':
        mask[:] = True
    else:
        mask[random.choice(size, random.integers(1, size + 1), replace=False)] = True
    return mask


def along(mask, dims, rank):
    """``mask`` as an array of this rank, of size 1 along the other dims."""
    shape = [1] * rank
    for dim, size in zip(dims, mask.shape, strict=True):
        shape[dim] = size
    return mask.reshape(shape)


def assert_cuts(shape, masks):
    """The cut has what boolean indexing has, in the same order, and its gradient goes there."""
    tensor = torch.arange(float(np.prod(shape)), dtype=torch.float64).reshape(shape) + 1
    everything = np.ones(shape, bool)
    for mask in masks:
        everything &= mask
    cut = cut_of_masks(shape, masks)
    tensor.requires_grad_(True)
    part = cut(tensor)
    assert cut.shape == tuple(part.shape)
    np.testing.assert_array_equal(
        part.detach().numpy().ravel(), tensor.detach().numpy()[everything]
    )
    assert cut.is_whole == everything.all()
    part.square().sum().backward()
    expected = np.where(everything, 2 * tensor.detach().numpy(), 0)
    np.testing.assert_array_equal(tensor.grad.numpy(), expected)
    return cut


KINDS = ['prefix', 'run', 'full', 'scattered']


@pytest.mark.parametrize('kind', KINDS)
def test_one_dim(kind):
    random = np.random.default_rng(0)
    for size in (1, 2, 3, 7, 16):
        for _ in range(20):
            mask = random_mask(random, size, kind)
            cut = assert_cuts((size,), [mask])
            assert cut.shape == (int(mask.sum()),)


def test_every_mask_of_five_elements():
    for bits in itertools.product([False, True], repeat=5):
        if any(bits):
            assert_cuts((5,), [np.array(bits)])


def test_several_dims_with_masks_of_their_own():
    random = np.random.default_rng(1)
    for _ in range(200):
        shape = tuple(random.integers(1, 6, random.integers(1, 5)))
        dims = random.permutation(len(shape))[: random.integers(0, len(shape) + 1)]
        masks = [
            along(random_mask(random, shape[dim], random.choice(KINDS)), [dim], len(shape))
            for dim in dims
        ]
        cut = assert_cuts(shape, masks)
        kept = {int(dim): int(mask.sum()) for dim, mask in zip(dims, masks, strict=True)}
        assert cut.shape == tuple(kept.get(dim, size) for dim, size in enumerate(shape))


def test_several_masks_of_one_dim_are_combined():
    random = np.random.default_rng(2)
    for _ in range(50):
        first, second = (random_mask(random, 9, 'scattered') for _ in range(2))
        if (first & second).any():
            assert_cuts((9, 4), [first[:, None], second[:, None]])


def grouped_weight(random, groups, out_each, in_each):
    """Masks of a grouped convolution's weight: every group keeps equally many, not the same."""
    keep_out, keep_in = random.integers(1, out_each + 1), random.integers(1, in_each + 1)
    rows, columns = np.zeros((groups, out_each), bool), np.zeros((groups, in_each), bool)
    for group in range(groups):
        rows[group, random.choice(out_each, keep_out, replace=False)] = True
        columns[group, random.choice(in_each, keep_in, replace=False)] = True
    return rows.ravel(), np.repeat(columns, out_each, axis=0), (groups * keep_out, keep_in)


@pytest.mark.parametrize('rank', [2, 3, 4])
def test_weights_of_grouped_convolutions(rank):
    random = np.random.default_rng(3)
    for _ in range(60):
        groups, out_each, in_each = random.integers(1, 5, 3)
        rows, columns, kept = grouped_weight(random, groups, out_each, in_each)
        shape = (groups * out_each, in_each, 3, 2)[:rank]
        masks = [along(rows, [0], rank), along(columns, [0, 1], rank)]
        cut = assert_cuts(shape, masks)
        assert cut.shape == (*kept, 3, 2)[:rank]
        assert cut_of_masks(shape, masks[::-1]).shape == cut.shape


def test_masks_over_dims_that_are_not_neighbours():
    random = np.random.default_rng(4)
    for _ in range(60):
        groups, out_each, in_each = random.integers(1, 4, 3)
        rows, columns, kept = grouped_weight(random, groups, out_each, in_each)
        shape = (5, groups * out_each, 2, in_each)
        middle = random_mask(random, 2, 'scattered')
        masks = [along(rows, [1], 4), along(columns, [1, 3], 4), along(middle, [2], 4)]
        cut = assert_cuts(shape, masks)
        assert cut.shape == (5, kept[0], int(middle.sum()), kept[1])


def test_a_run_is_a_view_and_anything_else_a_copy():
    tensor = torch.rand(8, 4)
    run = cut_of_masks((8, 4), [np.arange(8)[:, None] < 5])(tensor)
    assert run._base is tensor
    scattered = cut_of_masks((8, 4), [np.arange(8)[:, None] % 2 == 0])(tensor)
    assert scattered._base is None
    whole = cut_of_masks((8, 4), [np.ones((8, 1), bool)])
    assert whole(tensor) is tensor


@pytest.mark.parametrize('kind', ['prefix', 'run', 'scattered'])
def test_what_was_cut_can_be_written_back(kind):
    random = np.random.default_rng(5)
    for _ in range(30):
        mask = random_mask(random, 9, kind)
        cut = cut_of_masks((9,), [mask])
        full = torch.from_numpy(random.random(9))
        before, part = full.clone(), torch.from_numpy(random.random(int(mask.sum())))
        if cut.is_whole:
            continue
        cut.write_back(full, part)
        np.testing.assert_array_equal(full.numpy()[mask], part.numpy())
        np.testing.assert_array_equal(full.numpy()[~mask], before.numpy()[~mask])


@pytest.mark.parametrize(
    ('shape', 'masks'),
    [
        ((4,), [np.zeros(4, bool)]),
        ((4, 2), [np.array([[True], [False], [False], [False]]), np.array([[False, False]])]),
        ((4,), [np.array([True, False, False, False]), np.array([False, True, True, True])]),
    ],
)
def test_nothing_left_is_refused(shape, masks):
    with pytest.raises(ValueError, match='no element of a tensor of shape'):
        cut_of_masks(shape, masks)


@pytest.mark.parametrize(
    'rows',
    [
        ['110', '100', '111'],  # six elements of three rows, as a box of three by two has
        ['110', '100'],
        ['111', '000', '110'],
        ['100', '110', '111', '110'],
    ],
)
def test_what_is_no_box_is_refused(rows):
    mask = np.array([[bit == '1' for bit in row] for row in rows])
    with pytest.raises(ValueError, match='are no box'):
        cut_of_masks(mask.shape, [mask])
    with pytest.raises(ValueError, match='are no box'):
        cut_of_masks((*mask.shape, 2), [mask[..., None]])


def test_every_box_of_rows_with_equal_counts_is_cut():
    """All 2-D masks of three by three: each is cut as in numpy, or refused as no box."""
    for bits in itertools.product([False, True], repeat=9):
        mask = np.array(bits).reshape(3, 3)
        counts = {int(row.sum()) for row in mask if row.any()}
        if len(counts) == 1:
            assert_cuts((3, 3), [mask])
        elif counts:
            with pytest.raises(ValueError, match='are no box'):
                cut_of_masks((3, 3), [mask])


LARGE_WEIGHTS = {'matrix': (160, 192), '1x1': (160, 192, 1, 1), '3x3': (48, 64, 3, 3)}


@pytest.mark.parametrize('dims', [(0,), (1,), (0, 1)])
@pytest.mark.parametrize('shape', LARGE_WEIGHTS.values(), ids=LARGE_WEIGHTS)
def test_large_weights_are_cut_as_small_ones(shape, dims):
    """They take another way, which has the same numbers and gradients."""
    random = np.random.default_rng(0)
    masks = [along(random_mask(random, shape[d], 'scattered'), (d,), len(shape)) for d in dims]
    assert np.prod(shape) >= LARGE
    assert_cuts(shape, masks)


def test_second_gradients_go_through_the_cut_of_a_large_weight():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(160, 192, dtype=torch.float64, generator=generator).requires_grad_()
    data = torch.randn(5, 96, dtype=torch.float64, generator=generator)
    rows, columns = torch.arange(0, 160, 2), torch.arange(1, 192, 2)
    cut = plain_cut(weight.shape, [(0, rows, 80), (1, columns, 96)])

    def curvature(part):
        loss = (data @ part.T).tanh().square().sum()
        (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weight)[0]

    expected = curvature(weight[rows][:, columns])
    assert expected.abs().max() > 1
    torch.testing.assert_close(curvature(cut(weight)), expected, rtol=1e-12, atol=1e-12)


def test_a_large_weight_is_cut_under_transformations_of_functions():
    weight = torch.randn(160, 192, dtype=torch.float64)
    cut = plain_cut(weight.shape, [(0, torch.arange(0, 160, 2), 80)])
    gradient = torch.func.grad(lambda w: cut(w).square().sum())(weight)
    expected = torch.zeros_like(weight)
    expected[::2] = 2 * weight[::2]
    assert torch.equal(gradient, expected)
