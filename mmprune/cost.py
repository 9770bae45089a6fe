"""What a subnet costs, in closed form: no forward pass, no deployed network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.channels.propagate import Labelling
from mmprune.layers import cut_of_masks


def count_kept(alive: BoolArray, labels: IntArray) -> int:
    """How many of ``labels`` are alive; those below 0 always are."""
    known = labels[labels >= 0]
    return int(alive[known].sum()) + labels.size - known.size


@dataclass(frozen=True)
class LayerCost:
    """Multiply-adds of one product, and the layer that it belongs to."""

    layer: str
    macs: int


class CostModel:
    """MACs and parameters of every subnet of one traced network.

    MACs are the multiply-adds of convolution, linear and matrix products at the shape of
    the demo input, its whole batch counted. One MAC is two FLOPs.
    """

    def __init__(self, model: nn.Module, labelling: Labelling) -> None:
        self.products = labelling.products
        self.labelled: list[tuple[tuple[int, ...], list[IntArray]]] = []
        self.constant_params = 0
        for name, parameter in model.named_parameters():
            if name in labelling.tensors:
                self.labelled.append((tuple(parameter.shape), labelling.tensors[name]))
            else:
                self.constant_params += parameter.numel()

    def layer_costs(self, alive: BoolArray) -> Iterable[LayerCost]:
        """MACs of every product, in order of execution."""
        for product in self.products:
            macs, divisor = product.constant, 1
            for labels, divided_by in product.counts:
                macs *= count_kept(alive, labels)
                divisor *= divided_by
            yield LayerCost(product.layer, macs // divisor)

    def macs(self, alive: BoolArray) -> int:
        """Multiply-adds of the subnet whose labels are ``alive``."""
        return sum(cost.macs for cost in self.layer_costs(alive))

    def params(self, alive: BoolArray) -> int:
        """Parameters of the deployed subnet, shared ones counted once."""
        total = self.constant_params
        for shape, factors in self.labelled:
            masks = [alive[factor.clip(0)] | (factor < 0) for factor in factors]
            size = 1
            for extent in cut_of_masks(shape, masks).shape:
                size *= extent
            total += size
        return total
