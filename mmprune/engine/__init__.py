"""What runs: search loops, and the functions behind the tools."""

from mmprune.engine.search import EvolutionSearchLoop, GreedySearchLoop, SearchLoop, SearchResult

__all__ = ['EvolutionSearchLoop', 'GreedySearchLoop', 'SearchLoop', 'SearchResult']
