"""What runs: search loops, hooks, and the functions behind the tools."""

from mmprune.engine.hooks import ProgressBarHook
from mmprune.engine.search import EvolutionSearchLoop, GreedySearchLoop, SearchLoop, SearchResult

__all__ = [
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'ProgressBarHook',
    'SearchLoop',
    'SearchResult',
]
