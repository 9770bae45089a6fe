"""What preparing a network costs, beside running it and beside Torch-Pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from mmprune.bench.memory import memory_of_tracing
from mmprune.bench.networks import batch_of, loss_of, network_of, prepared
from mmprune.bench.options import BenchOptions
from mmprune.bench.peers import Fastest, Fresh, beside_peer, computing
from mmprune.bench.rows import Row, Step

SECTION = 'tracing'
OVER_FORWARD, OVER_PEER, OVER_PEER_AT_MOST, LINEAR = 4.0, 0.5, 1.0, 12.0
"""Targets: largest ratios to a forward pass and to Torch-Pruning, on average and for each
network, and of 800 blocks to 100."""
OVER_FORWARD_OF = {'swin_transformer/tiny_224': 5.0}
"""Networks that have a target of their own."""
MODELS = (
    'resnet18', 'resnet50', 'mobilenet_v2_1x', 'mobilenet_v3/mobilenet_v3_small_imagenet',
    'densenet/densenet121', 'efficientnet_b0', 'regnet/regnetx_400mf', 'hrnet/hrnet-w18',
    'convnext/convnext-tiny', 'poolformer/poolformer_s12', 'vit-base-p16',
    'swin_transformer/tiny_224', 'shufflenet_v2_1x',
)  # fmt: skip
WHAT = {
    'ours': 'prepare_from_supernet',
    'forward': 'one forward pass with gradients recorded',
    'backward': 'one forward and backward pass',
    'peer': "Torch-Pruning's build_dependency",
}
MEANS = (
    ('ours', 'forward', OVER_FORWARD),
    ('ours', 'backward', None),
    ('ours', 'peer', OVER_PEER),
    # No preparation can be faster than the pass that it traces.
    ('forward', 'peer', None),
)


def tracing_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    fastest = Fastest(SECTION, WHAT)
    for name in options.models or MODELS:
        yield f'preparing {name}', partial(prepare_rows, name, options, fastest)
    yield 'means', partial(fastest.rows, MEANS)
    yield 'depth', partial(depth_rows, options)
    if torch.device(options.device).type == 'cpu':
        for name in options.memory_models:
            run = partial(memory_of_tracing, name, options.size, options.threads)
            yield f'memory of tracing {name}', run


def prepare_rows(name: str, options: BenchOptions, fastest: Fastest) -> Iterator[Row]:
    """Times of preparing one network."""
    network = network_of(name, options.device)
    data = batch_of(network, 1, options.size, options.device)
    passes: dict[str, Callable[[], Any]] = {
        'forward': partial(network, data),
        'backward': lambda: loss_of(network(data)).backward(),
    }
    theirs = build_dependency if 'peers' in options.sections else None
    times = beside_peer(network, data, prepared, theirs, options, passes)
    fastest.note(name, times)
    for other, most in (
        ('forward', OVER_FORWARD_OF.get(name)),
        ('backward', None),
        ('peer', OVER_PEER_AT_MOST),
    ):
        if other in times:
            yield fastest.row(name, data, times, other, most)


def build_dependency(network: nn.Module, data: torch.Tensor) -> Any:
    """What Torch-Pruning does before it can prune."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(network, example_inputs=data)


class ResidualChain(nn.Module):
    """Residual blocks without norms: a chain of sums that share all their channels."""

    def __init__(self, blocks: int, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks)
        )
        self.head = nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of images (N, 3, H, W)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + 0.1 * block(x.relu())
        return self.head(x.mean((2, 3)))


def depth_rows(options: BenchOptions) -> Iterator[Row]:
    """Times of a shallow and a deep residual network without norms."""
    data = torch.rand(1, 3, 16, 16, device=options.device)
    chains = {
        f'{blocks} blocks': Fresh(prepared, ResidualChain(blocks).to(options.device).eval(), data)
        for blocks in options.blocks
    }
    ready = {name: chain.make for name, chain in chains.items()}
    times = computing(chains, options.seconds / 3, options.device, ready)
    few, many = chains
    yield Row.timed(
        SECTION, 'residual network without norms', f'prepare_from_supernet, {many}', times[many],
        few, times[few], LINEAR, of='fastest',
    )  # fmt: skip
