"""The criteria that are compared, as mmprune and as Torch-Pruning call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OURS, THEIRS = 'mmprune', 'Torch-Pruning'
SCOPES = ('global', 'local', 'isomorphic')
MEASURES = {
    'pruned': 'right after',
    'recalibrated': 'norms recalibrated',
    'compensated': 'compensated',
    'finetuned': 'finetuned',
    'taught': 'finetuned with a teacher',
}
"""Accuracies, and what tables call them."""
OF_DIGITS = ('pruned', 'recalibrated', 'finetuned')
SHARED = dict(reduction='mean', normalise='mean')
"""Torch-Pruning's defaults: the mean over a group's tensors, by the mean of the group."""

CLOSE_ENOUGH = 2e-3
"""A cost that is this near to its target, as a share of it, is looked for no longer."""


@dataclass(frozen=True)
class Criterion:
    """One criterion in both programs.

    Attributes:
        name: In the tables.
        ours: Config of mmprune's importance.
        theirs: Name of Torch-Pruning's importance; None if it has no such.
        options: Its options.
        data: What Torch-Pruning wants to have seen: ``'gradients'`` summed over all images,
            ``'squares'`` of every image's gradients, ``'activations'``.
        beside: Name of the criterion whose row of Torch-Pruning's it is compared with, if not
            of its own.
    """

    name: str
    ours: dict[str, Any]
    theirs: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    beside: str | None = None


CRITERIA = (
    Criterion('Random', dict(type='RandomImportance'), 'RandomImportance'),
    # Torch-Pruning counts the scales of norms among a channel's weights.
    Criterion(
        'L1', dict(type='L1Importance', norms=True, **SHARED), 'GroupMagnitudeImportance', dict(p=1)
    ),
    Criterion('L1, weights alone', dict(type='L1Importance', **SHARED), beside='L1'),
    Criterion('L1, defaults', dict(type='L1Importance'), beside='L1'),
    Criterion('L1, not normalised', dict(type='L1Importance', normalise='none'), beside='L1'),
    Criterion(
        'L2', dict(type='L2Importance', norms=True, **SHARED), 'GroupMagnitudeImportance', dict(p=2)
    ),
    Criterion('L2, weights alone', dict(type='L2Importance', **SHARED), beside='L2'),
    Criterion(
        'Lp, p = 3',
        dict(type='LpImportance', p=3, root=False, norms=True, **SHARED),
        'GroupMagnitudeImportance',
        dict(p=3),
    ),
    Criterion(
        'Lp, weights alone',
        dict(type='LpImportance', p=3, root=False, **SHARED),
        beside='Lp, p = 3',
    ),
    Criterion('LAMP', dict(type='LAMPImportance', norms=True, reduction='mean'), 'LAMPImportance'),
    Criterion(
        'LAMP, weights alone', dict(type='LAMPImportance', reduction='mean'), beside='LAMP'
    ),
    # It counts the weights that read a channel, too; the paper's are the filters.
    Criterion('FPGM', dict(type='FPGMImportance', members='all', **SHARED), 'FPGMImportance'),
    Criterion('FPGM, filters alone', dict(type='FPGMImportance', **SHARED), beside='FPGM'),
    Criterion('BN scale', dict(type='BNScaleImportance', **SHARED), 'BNScaleImportance'),
    Criterion(
        'Taylor',
        dict(type='TaylorImportance', **SHARED),
        'GroupTaylorImportance',
        dict(multivariable=True),
        'gradients',
    ),
    Criterion(
        'Taylor, per weight',
        dict(type='TaylorImportance', per='weight', **SHARED),
        'GroupTaylorImportance',
        data='gradients',
    ),
    Criterion('Taylor, defaults', dict(type='TaylorImportance'), beside='Taylor'),
    Criterion(
        'Taylor, not normalised',
        dict(type='TaylorImportance', normalise='none'),
        beside='Taylor',
    ),
    Criterion(
        'Hessian', dict(type='HessianImportance', **SHARED), 'GroupHessianImportance',
        data='squares',
    ),
    Criterion(
        'Activation', dict(type='ActivationImportance', **SHARED), 'ActivationImportance',
        data='activations',
    ),
    Criterion('APoZ', dict(type='APoZImportance', **SHARED)),
    Criterion('Variance', dict(type='VarianceImportance', **SHARED)),
    Criterion('GroupFisher', dict(type='GroupFisherImportance', normalise='mean')),
    Criterion('Residual', dict(type='ResidualImportance')),
)  # fmt: skip


BESIDE = {criterion.name: criterion.beside or criterion.name for criterion in CRITERIA}
"""Of which criterion Torch-Pruning's row is that stands beside a criterion's."""


def nearest(
    target: float, made: Callable[[float], tuple[float, Any]], rounds: int = 10
) -> tuple[float, Any]:
    """Bisect a share from 0 to 1 for the cost that is nearest to a target.

    Args:
        target: A cost.
        made: From a share of channels to remove to (cost, result); None as the result where
            nothing came out.
        rounds: How often the interval is halved.

    Returns:
        The cost and the result nearest to the target, of all that were looked at.
    """
    low, high = 0.0, 1.0
    found: list[tuple[float, Any]] = []
    for _ in range(rounds):
        middle = (low + high) / 2
        cost, result = made(middle)
        if result is not None:
            found.append((cost, result))
        if abs(cost - target) <= CLOSE_ENOUGH * target:
            break
        if cost > target:
            low = middle
        else:
            high = middle
    if not found:
        raise ValueError(f'nothing costs about {target:,.0f}')
    return min(found, key=lambda pair: abs(pair[0] - target))
