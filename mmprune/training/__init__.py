"""Hooks of training: pruning while it goes on, penalties, resuming, and what they carry over."""

from mmprune.training.dcff import DCFF
from mmprune.training.dmcp import DMCP
from mmprune.training.hooks import ProgressBarHook
from mmprune.training.iterative_pruning import IterativePruning
from mmprune.training.regularisers import GroupLasso, GrowingPenalty, ScaleL1
from mmprune.training.resuming import ExactResume
from mmprune.training.slimming import SlimmingPenalty
from mmprune.training.subnet_loops import SubnetsTestLoop, SubnetsValLoop

__all__ = [
    'DCFF',
    'DMCP',
    'ExactResume',
    'GroupLasso',
    'GrowingPenalty',
    'IterativePruning',
    'ProgressBarHook',
    'ScaleL1',
    'SlimmingPenalty',
    'SubnetsTestLoop',
    'SubnetsValLoop',
]
