"""Hooks of training: pruning while it goes on, penalties, resuming, and what they carry over."""

from mmprune.training.hooks import ProgressBarHook
from mmprune.training.iterative_pruning import IterativePruning
from mmprune.training.regularisers import GroupLasso, GrowingPenalty, ScaleL1
from mmprune.training.resuming import ExactResume
from mmprune.training.slimming import SlimmingPenalty

__all__ = [
    'ExactResume',
    'GroupLasso',
    'GrowingPenalty',
    'IterativePruning',
    'ProgressBarHook',
    'ScaleL1',
    'SlimmingPenalty',
]
