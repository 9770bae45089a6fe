"""What subnets cost, in closed form: no forward pass, no deployed network."""

from mmprune.cost.forms import CostError, LinearForm, WidthForms
from mmprune.cost.memory import Memory, memory_of
from mmprune.cost.model import CostModel, LayerCost
from mmprune.cost.table import COLUMNS, CostTable
from mmprune.cost.terms import Term, count_kept

__all__ = [
    'COLUMNS',
    'CostError',
    'CostModel',
    'CostTable',
    'LayerCost',
    'LinearForm',
    'Memory',
    'Term',
    'WidthForms',
    'count_kept',
    'memory_of',
]
