"""What subnets cost, in closed form: no forward pass, no deployed network."""

from mmprune.cost.model import CostModel, LayerCost
from mmprune.cost.terms import Term, count_kept

__all__ = ['CostModel', 'LayerCost', 'Term', 'count_kept']
