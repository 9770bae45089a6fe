"""A subnet computed a third way: on the full network, without anything that mmprune prunes with.

This is the check of the checkers. It shares no code with mmprune's labels, masks, slices and
cuts: it writes zeros into a copy of the original network, and lets plain torch run that. What
is removed it takes from a channel config read as plain data (``zeros``), or from the numbers
that a pruned network still has (``values``), whoever pruned it. Only norms over channels need more
than zeros, since their statistics would count the removed channels; they are computed by hand
(``norms``).
"""

from mmprune.zoo.independent.norms import KeptNorm, KeptResponseNorm
from mmprune.zoo.independent.values import zeroed_like
from mmprune.zoo.independent.zeros import zeroed

__all__ = ['KeptNorm', 'KeptResponseNorm', 'zeroed', 'zeroed_like']
