"""Pruners: how many channels a subnet keeps, and which."""

from mmprune.plans.plan import Plan
from mmprune.plans.removals import PlanError
from mmprune.pruners.importance_pruner import ImportancePruner
from mmprune.pruners.markov import MarkovPruner
from mmprune.pruners.network_slimming import NetworkSlimming
from mmprune.pruners.ratio_pruner import RatioPruner
from mmprune.pruners.structure_pruner import StructurePruner
from mmprune.supernet.supernet import Subnet, SubnetError

__all__ = [
    'ImportancePruner',
    'MarkovPruner',
    'NetworkSlimming',
    'Plan',
    'PlanError',
    'RatioPruner',
    'StructurePruner',
    'Subnet',
    'SubnetError',
]
