"""Which channels of a group weigh most."""

from mmprune.importance.activation import (
    ActivationImportance,
    APoZImportance,
    VarianceImportance,
)
from mmprune.importance.base import Importance, MemberScores
from mmprune.importance.data import DataImportance, LossFunction
from mmprune.importance.fisher import GroupFisherImportance
from mmprune.importance.fusion import FusionImportance
from mmprune.importance.gradient import HessianImportance, TaylorImportance
from mmprune.importance.magnitude import (
    BNScaleImportance,
    FPGMImportance,
    L1Importance,
    L2Importance,
    LAMPImportance,
    LpImportance,
    RandomImportance,
)
from mmprune.importance.residual import ResidualImportance

__all__ = [
    'APoZImportance',
    'ActivationImportance',
    'BNScaleImportance',
    'DataImportance',
    'FPGMImportance',
    'FusionImportance',
    'GroupFisherImportance',
    'HessianImportance',
    'Importance',
    'L1Importance',
    'L2Importance',
    'LAMPImportance',
    'LossFunction',
    'LpImportance',
    'MemberScores',
    'RandomImportance',
    'ResidualImportance',
    'TaylorImportance',
    'VarianceImportance',
]
