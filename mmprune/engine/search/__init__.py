"""Looking for the best subnet under a budget."""

from mmprune.engine.search.evolution import EvolutionSearchLoop
from mmprune.engine.search.greedy import GreedySearchLoop
from mmprune.engine.search.history import Evaluation, SearchHistory, read_history
from mmprune.engine.search.search_loop import SearchLoop, SearchResult

__all__ = [
    'Evaluation',
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'SearchHistory',
    'SearchLoop',
    'SearchResult',
    'read_history',
]
