"""What a subnet costs inside the supernet, beside what it costs deployed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import nn

from mmprune.bench.memory import allocated_peak
from mmprune.bench.networks import Pass, batch_of, half, network_of, prepared, title_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.latency.timing import interleaved
from mmprune.pruners import StructurePruner, Subnet

SECTION, PEERS = 'execution', 'peers'
SLICE_FORWARD, SLICE_BACKWARD, SLICE_FULL = 1.05, 1.10, 1.05
MASK, SWITCH, DEPLOY_FORWARDS, DEPLOY_MEMORY = 1.05, 0.01, 5, 1.10
"""Targets: largest ratios, and forward passes that deploying may take."""


def execution_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, in order, with a title each."""
    for name in options.networks:
        contestants = Contestants(name, options)
        title = title_of(name)
        for batch in options.batches:
            for with_backward in (False, True):
                kind = 'forward and backward' if with_backward else 'forward'
                run = partial(contestants.passes, batch, with_backward)
                yield f'{title}, batch {batch}, {kind}', run
        yield f'{title}, set_subnet', contestants.switching
        yield f'{title}, deploy_subnet', contestants.deploying
        yield f'{title}, done', contestants.release


class Contestants:
    """One network in all the ways that it is run: plain, sliced, masked, deployed.

    They are made when they are first needed, and let go at the end.
    """

    def __init__(self, name: str, options: BenchOptions) -> None:
        self.name, self.options = name, options
        self.title = title_of(name)
        self.networks: dict[str, nn.Module] = {}
        self.pruners: dict[str, StructurePruner] = {}

    def make(self) -> None:
        """Build and prepare."""
        if self.networks:
            return
        plain = network_of(self.name, self.options.device)
        demo = self.batch(1)
        self.networks['plain'] = plain
        for name, execution in (('slice, full', 'slice'), ('slice', 'slice'), ('mask', 'mask')):
            network = copy.deepcopy(plain)
            pruner = prepared(network, demo, execution, self.options.kept)
            if name != 'slice, full':
                pruner.set_subnet(half(pruner))
            self.networks[name], self.pruners[name] = network, pruner
        pruner = self.pruners['slice']
        self.networks['deployed'] = pruner.deploy_subnet(
            self.networks['slice'], pruner.export_subnet()
        ).eval()
        if 'peers' in self.options.sections:
            self.networks['input masks'] = with_input_masks(plain)

    def batch(self, count: int) -> torch.Tensor:
        """A batch of images."""
        plain = self.networks.get('plain') or network_of(self.name, self.options.device)
        return batch_of(plain, count, self.options.size, self.options.device)

    def passes(self, batch: int, with_backward: bool) -> Iterator[Row]:
        """All of them take turns on one batch."""
        self.make()
        data = self.batch(batch)
        calls = {n: Pass(each, data, with_backward) for n, each in self.networks.items()}
        times = interleaved(
            calls,
            self.options.seconds,
            self.options.device,
            before={name: call.make_ready for name, call in calls.items()},
        )
        for network in self.networks.values():
            network.eval().zero_grad(set_to_none=True)
        kind = 'forward and backward' if with_backward else 'forward'
        half_target = SLICE_BACKWARD if with_backward else SLICE_FORWARD
        compared: list[tuple[str, str, str, str, float | None]] = [
            ('slice', f'slice, ratio 0.5: {kind}', 'deployed', 'the deployed subnet', half_target),
            ('slice, full', f'slice, full width: {kind}', 'plain', 'the plain network', SLICE_FULL),
            ('mask', f'mask: {kind}', 'plain', 'the plain network', MASK),
            ('input masks', f'input masks as in 0.x: {kind}', 'plain', 'the plain network', None),
        ]
        for name, what, other, against, most in compared:
            if name in times:
                section = PEERS if name == 'input masks' else SECTION
                subject = f'{self.title}, batch {batch}'
                yield Row.timed(section, subject, what, times[name], against, times[other], most)

    def switching(self) -> Iterator[Row]:
        """``set_subnet``, and the first forward pass after it, in both modes."""
        self.make()
        batch = self.options.batches[-1]
        calls: dict[str, Callable[[], object]] = {
            'forward': Pass(self.networks['plain'], self.batch(batch))
        }
        single = self.batch(1)
        for mode in ('slice', 'mask'):
            pruner = self.pruners[mode]
            subnets = cycle([pruner.sample_subnet() for _ in range(8)])
            calls[f'{mode} set'] = partial(_set_next, pruner, subnets)
            calls[f'{mode} first'] = Pass(self.networks[mode], single)
            calls[f'{mode} second'] = Pass(self.networks[mode], single)
        times = interleaved(calls, self.options.seconds, self.options.device, least_rounds=8)
        for mode in ('slice', 'mask'):
            self.pruners[mode].set_subnet(half(self.pruners[mode]))
            set_, first, second = (times[f'{mode} {n}'] for n in ('set', 'first', 'second'))
            forward = f'one forward of the plain network, batch {batch}'
            what, subject = f'{mode}: set_subnet', f'{self.title}, batch {batch}'
            yield Row.timed(SECTION, subject, what, set_, forward, times['forward'], SWITCH)
            what = f'{mode}: the first forward after set_subnet'
            subject = f'{self.title}, batch 1'
            yield Row.timed(SECTION, subject, what, first, 'the one after it', second)

    def deploying(self) -> Iterator[Row]:
        """``deploy_subnet``: its time, and how much memory it needs beyond the result."""
        self.make()
        pruner, network = self.pruners['slice'], self.networks['slice']
        cfg = pruner.export_subnet()
        batch = self.options.batches[-1]
        deploy = partial(pruner.deploy_subnet, network, cfg)
        calls: dict[str, Callable[[], object]] = {
            'deploy': deploy,
            'forward': Pass(self.networks['plain'], self.batch(batch)),
        }
        times = interleaved(calls, self.options.seconds / 2, self.options.device)
        yield Row.timed(
            SECTION,
            f'{self.title}, batch {batch}',
            'deploy_subnet, ratio 0.5',
            times['deploy'],
            f'{DEPLOY_FORWARDS} forwards of the plain network, batch {batch}',
            times['forward'],
            1.0,
            scale=DEPLOY_FORWARDS,
        )
        peak = allocated_peak(deploy, self.options.device)
        deployed = self.networks['deployed']
        size = sum(t.nbytes for t in (*deployed.parameters(), *deployed.buffers()))
        yield Row(
            SECTION,
            self.title,
            'deploy_subnet, ratio 0.5: memory allocated at most',
            peak / 1e6,
            'MB',
            'the deployed network',
            size / 1e6,
            DEPLOY_MEMORY,
        )

    def release(self) -> list[Row]:
        """Let the networks go."""
        self.networks.clear()
        self.pruners.clear()
        return []


def _set_next(pruner: StructurePruner, subnets: Iterator[Subnet]) -> None:
    pruner.set_subnet(next(subnets))


def with_input_masks(network: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers multiply their input by a buffer ``in_mask``.

    The least that MMRazor 0.2 and 0.3 do: their pruner patches forwards to
    ``conv(input * in_mask)``. What they do besides is left out.
    """
    masked = copy.deepcopy(network)
    for module in masked.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _mask(module, channels=module.weight.shape[1] * getattr(module, 'groups', 1))
    return masked


def _mask(module: Any, channels: int) -> None:
    shape = (1, channels, 1, 1) if isinstance(module, nn.Conv2d) else (1, channels)
    # Ones: what a multiplication costs does not depend on it.
    module.register_buffer('in_mask', torch.ones(shape).to(module.weight))
    module.forward = partial(_masked_forward, module, module.forward)


def _masked_forward(
    module: Any, forward: Callable[[torch.Tensor], torch.Tensor], data: torch.Tensor
) -> torch.Tensor:
    return forward(data * module.in_mask)
