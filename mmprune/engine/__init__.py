"""What runs: search loops, hooks, and the functions behind the tools."""
# ruff: noqa: E402  (mmengine's runner fails without cv2, and does not say what to do)

from mmprune.dependencies import require

require('cv2', "mmengine's Runner, by which the tools work,")

from mmprune.engine.hooks import ProgressBarHook
from mmprune.engine.iterative_pruning import IterativePruning
from mmprune.engine.regularisers import GroupLasso, GrowingPenalty, ScaleL1
from mmprune.engine.search import EvolutionSearchLoop, GreedySearchLoop, SearchLoop, SearchResult
from mmprune.engine.slimming import SlimmingPenalty

__all__ = [
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'GroupLasso',
    'GrowingPenalty',
    'IterativePruning',
    'ProgressBarHook',
    'ScaleL1',
    'SearchLoop',
    'SearchResult',
    'SlimmingPenalty',
]
