"""Which channels of a group weigh most."""

from mmprune.importance.magnitude import L1Importance, L2Importance, RandomImportance

__all__ = ['L1Importance', 'L2Importance', 'RandomImportance']
