"""What the checks are made of: random numbers, scattered subnets, comparisons of networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from mmprune.deploy import ChannelCfg, deploy
from mmprune.layers import KeptOutputs
from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import PRUNERS
from mmprune.trace.chance import without_chance
from mmprune.trace.tracer import DemoInput, run_model, tensors_in

RTOL, ATOL = 1e-10, 1e-12
"""How far outputs in float64 may differ."""


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and running statistics, so that outputs are far from zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.copy_(values * (1.6 / fan_in**0.5) if parameter.dim() > 1 else 1 + values / 3)
    for name, buffer in model.named_buffers():
        if name.endswith('running_mean'):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith('running_var'):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def scattered(pruner: StructurePruner, seed: int = 0, ratio: float = 0.5) -> Subnet:
    """A subnet that keeps about ``ratio`` of every group, in no group the first channels."""
    random = np.random.default_rng(seed)
    subnet: Subnet = {}
    spaces = pruner.channel_spaces
    for space_id, group in pruner.supernet.prunable_groups.items():
        scores = random.random(group.num_channels)
        scores[0] = -1  # channel 0 is dropped wherever constraints allow it
        mask = group.select(scores, max(1, int(group.num_channels * ratio)))
        shape = spaces[space_id].shape
        subnet[space_id] = torch.from_numpy(mask.astype(np.float32)).reshape(shape)
    return subnet


def outputs_of(model: nn.Module, data: Any) -> list[torch.Tensor]:
    """All tensors that a model gives for an input."""
    with torch.no_grad():
        return [tensor.detach() for tensor in tensors_in(run_model(model, data))]


def assert_close(
    ours: torch.Tensor, theirs: torch.Tensor, what: str, rtol: float, atol: float
) -> None:
    """Two tensors agree, and a number near 0 as far as the largest one; ``what`` they are is said.

    What is left where large numbers cancel is as uncertain as these are.
    """
    largest = float(theirs.detach().abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol * max(1.0, largest), msg=lambda text: f'{what}: {text}'
    )


def check_subnet(
    pruner: StructurePruner, data: Any, subnet: Subnet, full: Sequence[torch.Tensor]
) -> tuple[nn.Module, list[torch.Tensor], float]:
    """Supernet and deployed network agree at a subnet, which makes a difference.

    Args:
        pruner: Prepared, of a network in float64.
        data: What the network is run on.
        subnet: It is set, and stays so.
        full: The network's outputs at full width.

    Returns:
        The deployed network, its outputs, and the largest relative error.

    Raises:
        AssertionError: They do not agree, or the costs of the subnet are not counted right.
    """
    model = pruner.supernet.model
    for space_id, mask in subnet.items():
        assert not mask.all(), f"group '{space_id}' cannot lose anything"
    pruner.set_subnet(subnet)
    cfg = pruner.export_subnet()
    deployed = pruner.deploy_subnet(model, cfg)
    assert_same_network(deployed, deploy(model, ChannelCfg(cfg)))
    inside, small = outputs_of(model, data), outputs_of(deployed, data)
    assert len(inside) == len(small) == len(full), 'the networks give unlike many tensors'
    error = 0.0
    for number, (ours, theirs, before) in enumerate(zip(inside, small, full, strict=True)):
        where = f'output {number} of supernet ({pruner.supernet.execution.mode}) and deployed'
        assert_close(ours, theirs, where, RTOL, ATOL)
        size = float(ours.abs().max())
        assert size > 1e-3, f'output {number} is 0: nothing is proven by it'
        assert not torch.allclose(ours, before, rtol=1e-3), (
            f'output {number} is that of the full width: the subnet removed nothing of it'
        )
        error = max(error, float((ours - theirs).abs().max()) / size)
    params = sum(parameter.numel() for parameter in deployed.parameters())
    counted = pruner.cost(subnet)['params']
    assert counted == params, f'cost() counts {counted} parameters, deployed are {params}'
    return deployed, small, error


def assert_same_network(first: nn.Module, second: nn.Module) -> None:
    """Two networks have the same tensors, and the same numbers among their attributes."""
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for (name, one), other in zip(first.named_modules(), second.modules(), strict=True):
        assert type(one) is type(other), name
        assert vars(one).keys() == vars(other).keys(), name
        for attribute, value in vars(one).items():
            several = value if isinstance(value, list | tuple) else [value]
            if all(isinstance(each, int | float | str) for each in several):
                assert value == vars(other)[attribute], f'{name}.{attribute}'


def assert_separate(model: nn.Module, deployed: nn.Module, plain: nn.Module) -> None:
    """A deployed network has storage of its own and no trace of mmprune, and keeps its keys.

    Args:
        model: The supernet.
        deployed: Made of it.
        plain: The network as it was before it was prepared.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    for name, tensor in deployed.state_dict().items():
        assert tensor.untyped_storage().data_ptr() not in own, f'{name} is shared'
        size = tensor.numel() * tensor.element_size()
        assert tensor.untyped_storage().nbytes() == size, f'{name} is a part of a larger tensor'
    # Beside its own modules it may have some that keep a part of what these give.
    named = [(n, own) for n, own in deployed.named_modules() if not isinstance(own, KeptOutputs)]
    others = [own for own in plain.modules() if not isinstance(own, KeptOutputs)]
    for (name, module), other in zip(named, others, strict=True):
        assert module.__dict__.keys() == other.__dict__.keys(), f"'{name}' has other attributes"
        assert len(module._forward_hooks) == len(other._forward_hooks), f"'{name}' has hooks"
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks), name
    assert set(deployed.state_dict()) == set(plain.state_dict())
    for (name, ours), theirs in zip(deployed.named_parameters(), plain.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad, name


def train_step(model: nn.Module, data: Any, learning_rate: float = 1e-2) -> torch.Tensor:
    """One step of gradient descent on a loss that every output enters, with nothing dropped."""
    model.train()
    with without_chance():
        outputs = tensors_in(run_model(model, data))
        loss = torch.stack([(out - 0.3).square().mean() for out in outputs]).sum()
        optimizer = torch.optim.SGD(model.parameters(), learning_rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def assert_trains(pruner: StructurePruner, data: Any, subnet: Subnet) -> None:
    """Two steps in the supernet, then deploy; or deploy, then two steps: the same network."""
    model = pruner.supernet.model
    pruner.set_subnet(subnet)
    cfg = pruner.export_subnet()
    deployed = pruner.deploy_subnet(model, cfg)
    start = {name: value.clone() for name, value in deployed.state_dict().items()}
    for _ in range(2):
        inside, outside = train_step(model, data), train_step(deployed, data)
        torch.testing.assert_close(inside, outside, rtol=1e-9, atol=ATOL)
    again = pruner.deploy_subnet(model, cfg).state_dict()
    for (name, ours), theirs in zip(again.items(), deployed.state_dict().values(), strict=True):
        assert_close(ours, theirs, name, 1e-8, 1e-10)
    assert any((value != start[name]).any() for name, value in again.items()), 'nothing has changed'


class Probe(nn.Module):
    """A small network with a residual, a concatenation and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.branch, self.joined = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(14)
        self.fuse = nn.Conv2d(14, 10, 1)
        self.last, self.head = nn.BatchNorm2d(10), nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to (N, 4)."""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.body(x))
        x = self.joined(torch.cat([self.depthwise(x), self.branch(x)], dim=1))
        x = torch.relu(self.last(self.fuse(x)))
        return self.head(x.mean((2, 3)))


def _in_double(leaf: Any) -> Any:
    """A part of an input, in float64 if it is a tensor of floats."""
    is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    return leaf.double() if is_float else leaf


def prepare(
    network: nn.Module, demo_input: DemoInput, pruner: Any = None
) -> tuple[nn.Module, Any, StructurePruner]:
    """A copy of a network in float64 with random numbers, its input, and a pruner of it.

    Args:
        network: Any module; it stays as it is.
        demo_input: As ``prepare_from_supernet`` takes it.
        pruner: A pruner or its config; one that halves every group if left out.
    """
    model = randomise(copy.deepcopy(network).double()).eval()
    data = tree_map(_in_double, demo_input)
    made = pruner or dict(type='RatioPruner', ratios=[0.5, 1.0])
    if isinstance(made, Mapping):
        made = PRUNERS.build({'_scope_': 'mmprune', **made})
    made.prepare_from_supernet(model, data)
    return model, data, made
