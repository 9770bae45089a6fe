"""The checks: each raises AssertionError with what is wrong, or returns a small report."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.pruners import StructurePruner, Subnet, SubnetError
from mmprune.registry import CHANNEL_RULES, IMPORTANCE, table
from mmprune.testing.comparisons import (
    ATOL,
    RTOL,
    Probe,
    assert_close,
    assert_separate,
    assert_trains,
    check_subnet,
    outputs_of,
    prepare,
    scattered,
)
from mmprune.trace.tracer import DemoInput, run_model, tensors_in

EXECUTIONS = ('slice', 'mask')


@dataclass(frozen=True)
class Conformance:
    """What a check has found, all of it right.

    Attributes:
        what: What was checked.
        subnets: How many random subnets were run.
        groups: Prunable groups -> how many channels they have.
        pinned: Groups that are pinned, and why.
        kept: Share of the parameters that the subnets keep, on average.
        max_rel_err: Largest difference over the largest magnitude of an output.
    """

    what: str
    subnets: int
    groups: Mapping[str, int]
    pinned: Mapping[str, str] = field(default_factory=dict)
    kept: float = 1.0
    max_rel_err: float = 0.0

    def __str__(self) -> str:
        lines = [
            f'{self.what}: {self.subnets} subnets of {len(self.groups)} groups, '
            f'{self.kept:.1%} of the parameters kept, exact within {self.max_rel_err:.0e}'
        ]
        lines += [f'  pinned: {name} ({why})' for name, why in self.pinned.items()]
        return '\n'.join(lines)


def check_network(
    network: nn.Module,
    demo_input: DemoInput,
    subnets: int = 2,
    ratio: float = 0.5,
    keeps_at_most: float = 1.0,
    trains: bool = True,
    **options: Any,
) -> Conformance:
    """Random subnets of a network are the same masked, sliced and deployed, and train alike.

    Args:
        network: Any module; a copy of it is checked.
        demo_input: As ``prepare_from_supernet`` takes it.
        subnets: How many are run by each execution.
        ratio: Share of the channels that each group keeps.
        keeps_at_most: Share of the parameters that may be left: what pins all is exact too.
        trains: Whether two steps of gradient descent are compared.
        **options: Of the pruner.

    Raises:
        AssertionError: The network breaks the promise, or too much of it stays.
    """
    name, shares, error = type(network).__name__, [], 0.0
    first: list[list[torch.Tensor]] = []
    for execution in EXECUTIONS:
        settings = dict(type='RatioPruner', ratios=[ratio, 1.0], execution=execution, **options)
        model, data, pruner = prepare(network, demo_input, settings)
        every = pruner.channel_groups.items()
        pinned = {space_id: group.reason for space_id, group in every if not group.prunable}
        failed = [why for why in pinned.values() if why.startswith('labelling failed')]
        assert not failed, f'{name}: {failed[0]}'
        assert pruner.channel_spaces, f'{name}: nothing can be pruned: {pinned}'
        full, before = outputs_of(model, data), copy.deepcopy(model.state_dict())
        size = sum(parameter.numel() for parameter in model.parameters())
        for seed in range(subnets):
            subnet = scattered(pruner, seed, ratio)
            deployed, small, wrong = check_subnet(pruner, data, subnet, full)
            error = max(error, wrong)
            shares.append(sum(parameter.numel() for parameter in deployed.parameters()) / size)
            assert_separate(model, deployed, network)
            first += [small] if execution == EXECUTIONS[0] else []
            for ours, theirs in zip(small, first[seed], strict=True):
                assert_close(ours, theirs, f'{name}, masked and sliced', RTOL, ATOL)
            report = pruner.verify_subnet(model, subnet)
            assert report.ok, f'{name} ({execution}): {report}'
        pruner.set_max_channel()
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[key]), f'{name}: {key} has changed in between'
        if trains:
            assert_trains(pruner, data, scattered(pruner, ratio=ratio))
    kept = sum(shares) / len(shares)
    assert kept <= keeps_at_most, (
        f'{name}: {kept:.1%} of the parameters stay, at most {keeps_at_most:.1%} may; '
        f'pinned: {pinned}'
    )
    groups = {s: g.num_channels for s, g in pruner.supernet.prunable_groups.items()}
    return Conformance(name, subnets * len(EXECUTIONS), groups, pinned, kept, error)


def check_rule(
    operation: str, network: nn.Module, demo_input: DemoInput, **options: Any
) -> Conformance:
    """A channel rule, in a network that uses it; see :func:`check_network` for the options.

    Raises:
        AssertionError: There is no such rule, the network does not use it, the rule fails, or
            what it says of the channels is wrong.
    """
    assert operation in table(CHANNEL_RULES), f"no channel rule is registered for '{operation}'"
    _, _, pruner = prepare(network, demo_input)
    used = dict.fromkeys(node.op for node in pruner.supernet.graph.nodes)
    assert operation in used, f"the network does not use '{operation}', but {', '.join(used)}"
    found = check_network(network, demo_input, **options)
    return replace(found, what=f"rule '{operation}' in {found.what}")


def check_importance(
    importance: Any, network: nn.Module | None = None, demo_input: DemoInput | None = None
) -> Conformance:
    """An importance: one finite score per channel, always the same, and those with most stay.

    One that looks at data (it has ``collect``) sees the demo input as its only batch.

    Args:
        importance: It, or its config.
        network: Any module; a small convolutional one if left out.
        demo_input: Its input, a tensor; needed with a network.

    Raises:
        AssertionError: It breaks the contract.
    """
    if isinstance(importance, Mapping):
        importance = IMPORTANCE.build({'_scope_': 'mmprune', **importance})
    name = type(importance).__name__
    options = dict(type='RatioPruner', ratios=[0.5], importance=importance)
    network, demo_input = _or_probe(network, demo_input)
    model, data, pruner = prepare(network, demo_input, options)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    if callable(getattr(importance, 'collect', None)):
        importance.collect(model, pruner.channel_groups, [data], _squares)
    scores = {}
    for space_id, group in pruner.supernet.prunable_groups.items():
        found = scores[space_id] = importance.scores(group, model)
        where = f"{name}, group '{space_id}'"
        assert isinstance(found, np.ndarray), f'{where}: scores are no array of numpy: {found!r}'
        assert found.shape == (group.num_channels,), (
            f'{where}: {group.num_channels} channels have scores of shape {found.shape}'
        )
        assert np.isfinite(found.astype(float)).all(), f'{where}: not all scores are finite'
        again = importance.scores(group, model)
        assert np.array_equal(found, again), f'{where}: other scores when asked again'
    pruner.set_min_channel()
    subnet = pruner.current_subnet()
    for space_id, mask in subnet.items():
        group, keep = pruner.channel_groups[space_id], mask.flatten().bool().numpy()
        if not group.constraints and group.arrangement is None and not keep.all():
            least, most = scores[space_id][keep].min(), scores[space_id][~keep].max()
            assert least >= most, f"{name}, group '{space_id}': {most} goes, {least} stays"
    report = pruner.verify_subnet(model, subnet)
    assert report.ok, f'{name}: {report}'
    pruner.set_max_channel()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), f'{name} has changed {key}'
    assert modes == [m.training for m in model.modules()], f'{name} has changed the mode'
    return _conformance(name, pruner, [subnet], report.max_rel_err)


def check_pruner(
    pruner: Any,
    network: nn.Module | None = None,
    demo_input: DemoInput | None = None,
    samples: int = 5,
) -> Conformance:
    """A pruner: what it draws and sets are valid subnets, exact, and drawn by the random state.

    Args:
        pruner: It, or its config.
        network: Any module; a small convolutional one if left out.
        demo_input: Its input; needed with a network.
        samples: How many subnets are drawn.

    Raises:
        AssertionError: It breaks the contract.
    """
    network, demo_input = _or_probe(network, demo_input)
    model, _, pruner = prepare(network, demo_input, pruner)
    name, error = type(pruner).__name__, 0.0
    pruner.set_max_channel()
    full = pruner.cost(pruner.current_subnet())['params']
    pruner.set_min_channel()
    least = pruner.current_subnet()
    smallest = pruner.cost(least)['params']
    assert smallest < full, f'{name}: set_min_channel() removes nothing'
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append([pruner.sample_subnet() for _ in range(samples)])
    for subnet, again in zip(*drawn, strict=True):
        found = pruner.current_subnet()
        same = all(torch.equal(found[space_id], mask) for space_id, mask in least.items())
        assert same, f'{name}: sample_subnet() has set a subnet'
        assert subnet.keys() == least.keys(), f'{name}: a subnet has {list(subnet)}'
        same = all(torch.equal(mask, again[space_id]) for space_id, mask in subnet.items())
        assert same, f'{name}: another subnet with the same seeds of numpy and torch'
    for subnet in [least, *drawn[0]]:
        try:
            pruner.set_subnet(subnet)
        except SubnetError as wrong:
            raise AssertionError(f'{name}: no valid subnet: {wrong}') from wrong
        params = pruner.cost(subnet)['params']
        assert params >= smallest, f'{name}: {params} parameters, set_min_channel() has {smallest}'
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, f'{name}: {report}'
        error = max(error, report.max_rel_err)
        cfg = pruner.export_subnet()
        pruner.set_max_channel()
        loaded = pruner.load_channel_cfg(cfg)
        same = all(torch.equal(loaded[space_id], mask) for space_id, mask in subnet.items())
        assert same, f'{name}: export_subnet() is read as another subnet'
        pruner.set_subnet(least)
    return _conformance(name, pruner, [least, *drawn[0]], error)


def _or_probe(network: nn.Module | None, demo_input: DemoInput | None) -> tuple[nn.Module, Any]:
    if network is None:
        return Probe(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    if demo_input is None:
        raise InputError('a network of your own needs a demo_input')
    return network, demo_input


def _squares(model: nn.Module, batch: Any) -> torch.Tensor:
    return torch.stack([out.square().mean() for out in tensors_in(run_model(model, batch))]).sum()


def _conformance(
    what: str, pruner: StructurePruner, subnets: Sequence[Subnet], error: float
) -> Conformance:
    every = pruner.channel_groups.items()
    size = sum(parameter.numel() for parameter in pruner.supernet.model.parameters())
    shares = [pruner.cost(subnet)['params'] / size for subnet in subnets]
    return Conformance(
        what,
        len(subnets),
        {space_id: group.num_channels for space_id, group in every if group.prunable},
        {space_id: group.reason for space_id, group in every if not group.prunable},
        sum(shares) / len(shares),
        error,
    )
