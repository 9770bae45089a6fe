"""MACs and parameters of one subnet, whichever channels it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.propagate import Labelling
from mmprune.cost.terms import Term, volume
from mmprune.trace.walk import parameters_of


@dataclass(frozen=True)
class LayerCost:
    """Multiply-adds of one product, and the layer that it belongs to."""

    layer: str
    macs: int


class CostModel:
    """MACs and parameters of every subnet of one traced network.

    MACs are the multiply-adds of convolution, linear and matrix products at the shape of
    the demo input, its whole batch counted. One MAC is two FLOPs.

    Attributes:
        products: A term per product, in order of execution.
        tensors: A term per parameter whose size depends on the subnet.
        constant_params: Elements of all other parameters.
    """

    def __init__(self, model: nn.Module, labelling: Labelling) -> None:
        self.products = [
            Term(
                product.layer,
                product.constant,
                tuple((labels.ravel(),) for labels, _ in product.counts),
                prod(divisor for _, divisor in product.counts),
            )
            for product in labelling.products
        ]
        self.tensors: list[Term] = []
        self.constant_params = 0
        for name, parameter in parameters_of(model).items():
            if name in labelling.tensors:
                self.tensors.append(volume(name, labelling.shapes[name], labelling.tensors[name]))
            else:
                self.constant_params += parameter.numel()

    def layer_costs(self, alive: BoolArray) -> Iterable[LayerCost]:
        """MACs of every product, in order of execution."""
        for product in self.products:
            yield LayerCost(product.what, product.value(alive))

    def macs(self, alive: BoolArray) -> int:
        """Multiply-adds of the subnet whose labels are ``alive``."""
        return sum(product.value(alive) for product in self.products)

    def params(self, alive: BoolArray) -> int:
        """Parameters of the deployed subnet, shared ones counted once."""
        return self.constant_params + sum(tensor.value(alive) for tensor in self.tensors)
