"""Norms of several subnets that share all other weights of one network."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from mmprune.execution.release import plain_copy
from mmprune.trace.walk import modules_of


class SwitchableNorms(nn.Module):
    """Weights and statistics of norms, a set for each of several subnets.

    What Yu et al., "Slimmable Neural Networks", 2019, section 3.3, call switchable batch
    normalization, for all norms of a network that have running statistics. The network's own
    modules stay where they are, and prepared as they are. They hold the first subnet's tensors to
    begin with; the sets of all others are in here, ``<subnet>.<name of the norm>``. Selecting a
    subnet exchanges its tensors with those of the first, so that each is in one place.

    Args:
        network: The network, prepared or plain. It is no submodule of this.
        number: How many subnets; all begin with the norms as they are.
    """

    index: Tensor

    def __init__(self, network: nn.Module, number: int) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, where torch does not find it
        self.number = number
        self.register_buffer('index', torch.zeros((), dtype=torch.long))
        norms = {name: m for name, m in modules_of(network).items() if _is_norm(m)}
        for subnet in range(1, number):
            copied = plain_copy(nn.ModuleList(norms.values()), {})
            self.add_module(str(subnet), _tree(dict(zip(norms, copied.children(), strict=True))))

    @property
    def others(self) -> list[nn.Module]:
        """The norms that are not in the network, in the places that they have there."""
        return list(self.children())

    def switch(self, subnet: int) -> None:
        """Let the network run with the norms of a subnet, 0 to ``number - 1``."""
        before = int(self.index)
        if subnet == before:
            return
        for each in (before, subnet):
            if each:
                self._exchange(each)
        self.index.fill_(subnet)

    def begin_alike(self) -> None:
        """Give all subnets the norms that the network has."""
        (network,) = self._network
        with torch.no_grad():
            for norms in self.others:
                for name, tensor in norms.state_dict(keep_vars=True).items():
                    module, _, local = name.rpartition('.')
                    tensor.copy_(getattr(network.get_submodule(module), local))

    def fill(self, state: MutableMapping[str, Tensor], prefix: str, network_prefix: str) -> None:
        """Let all subnets begin with the network's norms in a state dict that knows none of them.

        Args:
            state: The state dict, which is added to.
            prefix: How this module's names begin in it.
            network_prefix: How the network's do.
        """
        if f'{prefix}index' in state:
            return
        state[f'{prefix}index'] = torch.zeros_like(self.index)
        for subnet, norms in enumerate(self.others, 1):
            for name in norms.state_dict():
                if f'{network_prefix}{name}' in state:
                    state[f'{prefix}{subnet}.{name}'] = state[f'{network_prefix}{name}']

    def _exchange(self, subnet: int) -> None:
        (network,) = self._network
        for name, norm in modules_of(self.get_submodule(str(subnet))).items():
            own = network.get_submodule(name)
            stores: Any = (norm._parameters, own._parameters), (norm._buffers, own._buffers)
            for mine, theirs in stores:
                for local in mine:
                    mine[local], theirs[local] = theirs[local], mine[local]


def _is_norm(module: nn.Module) -> bool:
    """Whether a module has running statistics, and no other parameters than for their channels."""
    mean = module._buffers.get('running_mean')
    return mean is not None and all(
        parameter is None or parameter.shape == mean.shape
        for parameter in module._parameters.values()
    )


def _tree(modules: Mapping[str, nn.Module]) -> nn.Module:
    """Modules under their dotted names, in empty ones."""
    tree = nn.Module()
    for name, module in modules.items():
        parent = tree
        *path, local = name.split('.')
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(local, module)
    return tree
