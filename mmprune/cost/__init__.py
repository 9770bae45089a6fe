"""What subnets cost, in closed form: no forward pass, no deployed network."""

from mmprune.cost.forms import CostError, WidthForms
from mmprune.cost.memory import Memory, memory_of
from mmprune.cost.model import CostModel
from mmprune.cost.table import COLUMNS, CostTable
from mmprune.cost.terms import Term

__all__ = [
    'COLUMNS',
    'CostError',
    'CostModel',
    'CostTable',
    'Memory',
    'Term',
    'WidthForms',
    'memory_of',
]
