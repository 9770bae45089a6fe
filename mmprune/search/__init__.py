"""Looking for the best subnet under a budget."""

from mmprune.search.evaluate import evaluate_subnet
from mmprune.search.evolution import EvolutionSearchLoop
from mmprune.search.greedy import GreedySearchLoop
from mmprune.search.history import Evaluation
from mmprune.search.optuna_search import OptunaSearchLoop
from mmprune.search.search_loop import SearchLoop, SearchResult
from mmprune.search.study import read_candidates

__all__ = [
    'Evaluation',
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'OptunaSearchLoop',
    'SearchLoop',
    'SearchResult',
    'evaluate_subnet',
    'read_candidates',
]
