"""Looking for the best subnet under a budget."""

from mmprune.search.evaluate import evaluate_subnet
from mmprune.search.evolution import EvolutionSearchLoop
from mmprune.search.greedy import GreedySearchLoop
from mmprune.search.history import Evaluation, SearchHistory, read_history
from mmprune.search.search_loop import SearchLoop, SearchResult

__all__ = [
    'Evaluation',
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'SearchHistory',
    'SearchLoop',
    'SearchResult',
    'evaluate_subnet',
    'read_history',
]
