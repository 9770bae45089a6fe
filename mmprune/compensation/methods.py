"""Ways to make up for what was removed; each solves the equations of one weight."""

from __future__ import annotations

import abc
from typing import Any

import torch

from mmprune.compensation.problem import Problem, Solution
from mmprune.errors import InputError
from mmprune.registry import COMPENSATIONS


class Compensation(abc.ABC):
    """Changes one weight, or what is added behind it, so that more of the full outputs come out.

    Args:
        samples: At how many positions a layer's outputs are looked at, over all images.
        follow: Treat the layers too that lost no inputs, but read what has changed before them;
            otherwise only those that lost inputs.
        seed: Of the choice of positions.
    """

    changes_weights = True
    """Whether ``solve`` can do without a place for a constant."""

    def __init__(self, samples: int = 4096, follow: bool = True, seed: int = 0) -> None:
        if samples < 1:
            raise InputError(f'samples: a layer is looked at at 1 position or more, not {samples}')
        self.samples, self.follow, self.seed = samples, follow, seed

    @abc.abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """What changes, in float64."""


@COMPENSATIONS.register_module()
class LeastSquares(Compensation):
    """The weights W that minimise ``|W x - y|^2 + r |W - W0|^2``, W0 the cut ones.

    x is what a layer reads in the pruned network, y what it gives in the full one. A bias is solved
    with the weights and is not drawn to its old value. ThiNet (ICCV 2017), section 3.3; He et
    al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), section 3.1.

    Args:
        ridge: r, relative to the mean of the diagonal of the normal equations.
        **kwargs: See ``Compensation``.
    """

    def __init__(self, ridge: float = 1e-2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not ridge >= 0:
            raise InputError(f'ridge: must be 0 or more, not {ridge}')
        self.ridge = ridge

    def solve(self, problem: Problem) -> Solution:
        """One Gram matrix for all outputs of a group: of features, or of positions if fewer."""
        x, y = problem.centred(problem.features), problem.centred(problem.missing)
        positions, features = x.shape[1:]
        strength = self.ridge * x.square().sum((1, 2)) / features
        if positions < features:
            change = x.transpose(1, 2) @ _solve(x @ x.transpose(1, 2), y, strength)
        else:
            turned = x.transpose(1, 2)
            change = _solve(turned @ x, turned @ y, strength)
        change = change.transpose(1, 2)
        reads = problem.means(problem.features)
        shifts = {
            place: (mean - reads[place] @ change.transpose(1, 2)).flatten()
            for place, mean in problem.means(problem.missing).items()
        }
        return Solution(change, shifts)


@COMPENSATIONS.register_module()
class MeanFolding(Compensation):
    """The mean of what is missing goes into the bias of the layer that misses it.

    Weights stay. A layer without a bias puts it into the running mean of a batch norm right behind
    it. Berisha et al., "Variance-Based Pruning" (ICCV 2025), with the means of the pruned
    network as it is by then, so that every layer's outputs have the full network's mean.
    """

    changes_weights = False

    def solve(self, problem: Problem) -> Solution:
        """The means, for each place."""
        means = problem.means(problem.missing)
        return Solution(None, {place: mean.flatten() for place, mean in means.items()})


def _solve(gram: torch.Tensor, right: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """(gram + strength)^-1 right, of positive matrices (groups, n, n); the smallest if many do."""
    gram.diagonal(dim1=1, dim2=2).add_(strength[:, None])
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed.any():
        return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(gram, hermitian=True) @ right
