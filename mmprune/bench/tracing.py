"""What preparing a network costs, beside running it and beside Torch-Pruning."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mmprune.bench.execution import Step
from mmprune.bench.memory import memory_of_tracing
from mmprune.bench.networks import batch_of, loss_of, network_of, prepared
from mmprune.bench.rows import Row, geometric_mean
from mmprune.latency.timing import Times, interleaved

SECTION = 'tracing'
OVER_FORWARD, OVER_PEER, OVER_PEER_AT_MOST, LINEAR = 4.0, 0.5, 1.0, 12.0
"""Targets: largest ratios to a forward pass and to Torch-Pruning, on average and for each
network, and of 800 blocks to 100."""
OVER_FORWARD_OF = {'swin_transformer/tiny_224': 5.0}
"""Networks that have a target of their own."""
PEER_SECONDS = 30
"""How long Torch-Pruning may take on one network; on some it would take for ever."""
MODELS = (
    'resnet18', 'resnet50', 'mobilenet_v2_1x', 'mobilenet_v3/mobilenet_v3_small_imagenet',
    'densenet/densenet121', 'efficientnet_b0', 'regnet/regnetx_400mf', 'hrnet/hrnet-w18',
    'convnext/convnext-tiny', 'poolformer/poolformer_s12', 'vit-base-p16',
    'swin_transformer/tiny_224', 'shufflenet_v2_1x',
)  # fmt: skip
BLOCKS = (100, 800)
WHAT = {
    'prepare': 'prepare_from_supernet',
    'forward': 'one forward pass with gradients recorded',
    'backward': 'one forward and backward pass',
    'peer': "Torch-Pruning's build_dependency",
}


@dataclass(frozen=True)
class TracingOptions:
    """What is measured.

    Attributes:
        models: Model configs of mmcls.
        memory_models: Those whose memory is measured, in processes of their own.
        size: Height and width of the image, where a network takes it.
        seconds: How long each network is measured.
        blocks: Depths of the residual networks of which the times are compared.
        threads: For the processes.
        device: Where to measure.
        with_peers: Whether Torch-Pruning is measured too, if it is installed.
    """

    models: tuple[str, ...] = MODELS
    memory_models: tuple[str, ...] = ('resnet50', 'vit-base-p16')
    size: int = 224
    seconds: float = 5.0
    blocks: tuple[int, int] = BLOCKS
    threads: int = 2
    device: str = 'cpu'
    with_peers: bool = True


@dataclass
class Fastest:
    """Seconds of the fastest rounds of every network, for the means.

    Attributes:
        seconds: By what was timed, then by network.
    """

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, network: str, times: Mapping[str, Times]) -> None:
        """Keep those of a network."""
        for what, each in times.items():
            self.seconds.setdefault(what, {})[network] = each.fastest

    def means(self, first: str, second: str) -> tuple[int, float, float]:
        """How many networks have both, and the geometric means of both over these."""
        both = [n for n in self.seconds.get(first, {}) if n in self.seconds.get(second, {})]
        if not both:
            return 0, 0.0, 0.0
        sides = [[self.seconds[what][network] for network in both] for what in (first, second)]
        return len(both), geometric_mean(sides[0]), geometric_mean(sides[1])


def tracing_steps(options: TracingOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    fastest = Fastest()
    for name in options.models:
        yield f'preparing {name}', partial(prepare_rows, name, options, fastest)
    yield 'means', partial(mean_rows, fastest)
    yield 'depth', partial(depth_rows, options)
    if torch.device(options.device).type == 'cpu':
        for name in options.memory_models:
            run = partial(memory_of_tracing, name, options.size, options.threads)
            yield f'memory of tracing {name}', run


def computing(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    device: torch.device | str,
    before: Mapping[str, Callable[[], Any]],
) -> dict[str, Times]:
    """Times of calls that take turns; on the CPU what one thread computes, whatever else runs."""
    if torch.device(device).type != 'cpu':
        return interleaved(calls, seconds, device, before=before)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return interleaved(calls, seconds, device, before=before, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)


class Fresh:
    """Copies of a network, one per round: preparing changes its network."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.copy = network, network

    def make(self) -> None:
        """Make the next one."""
        self.copy = copy.deepcopy(self.network)


def prepare_rows(name: str, options: TracingOptions, fastest: Fastest) -> Iterator[Row]:
    """Times of preparing one network."""
    network = network_of(name, options.device)
    data = batch_of(network, 1, options.size, options.device)
    ours, theirs = Fresh(network), Fresh(network)
    calls: dict[str, Callable[[], Any]] = {
        'forward': partial(network, data),
        'backward': lambda: loss_of(network(data)).backward(),
        'prepare': lambda: prepared(ours.copy, data),
    }
    before: dict[str, Callable[[], Any]] = {
        'backward': partial(network.zero_grad, set_to_none=True),
        'prepare': ours.make,
    }
    if options.with_peers and find_spec('torch_pruning') and _is_traced_by_peer(theirs, data):
        calls['peer'], before['peer'] = lambda: build_dependency(theirs.copy, data), theirs.make
    times = computing(calls, options.seconds, options.device, before)
    fastest.note(name, times)
    for what, most in (
        ('forward', OVER_FORWARD_OF.get(name)),
        ('backward', None),
        ('peer', OVER_PEER_AT_MOST),
    ):
        if what in times:
            yield Row(
                SECTION,
                f'{name}, {"x".join(map(str, data.shape))}',
                WHAT['prepare'],
                1e3 * times['prepare'].fastest,
                against=WHAT[what],
                reference=1e3 * times[what].fastest,
                most=most,
                rounds=len(times[what].seconds),
                spread=times['prepare'].spread,
            )


def build_dependency(network: nn.Module, data: torch.Tensor) -> Any:
    """What Torch-Pruning does before it can prune."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(network, example_inputs=data)


def _is_traced_by_peer(theirs: Fresh, data: torch.Tensor) -> bool:
    """Whether Torch-Pruning can build its graph of a network, within its time."""
    theirs.make()
    try:
        with within(PEER_SECONDS):
            build_dependency(theirs.copy, data)
    except Exception:  # whatever it raises on what it does not know
        return False
    return True


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer, where the system has alarms."""
    if not hasattr(signal, 'SIGALRM'):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f'took longer than {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mean_rows(fastest: Fastest) -> Iterator[Row]:
    """Geometric means over the networks; their ratio is the geometric mean of the ratios."""
    for first, second, most in (
        ('prepare', 'forward', OVER_FORWARD),
        ('prepare', 'backward', None),
        ('prepare', 'peer', OVER_PEER),
        # No preparation can be faster than the pass that it traces.
        ('forward', 'peer', None),
    ):
        count, mean, reference = fastest.means(first, second)
        if count:
            yield Row(
                SECTION,
                f'geometric mean over {count} networks',
                WHAT[first],
                1e3 * mean,
                against=WHAT[second],
                reference=1e3 * reference,
                most=most,
            )


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


def depth_rows(options: TracingOptions) -> Iterable[Row]:
    """Times of a shallow and a deep residual network without norms."""
    data = torch.rand(1, 3, 16, 16, device=options.device)
    networks = [Fresh(ResidualChain(b).to(options.device).eval()) for b in options.blocks]
    shallow, deep = networks
    times = computing(
        {
            'shallow': lambda: prepared(shallow.copy, data),
            'deep': lambda: prepared(deep.copy, data),
        },
        options.seconds,
        options.device,
        {'shallow': shallow.make, 'deep': deep.make},
    )
    few, many = options.blocks
    yield Row(
        SECTION,
        'residual network without norms',
        f'prepare_from_supernet, {many} blocks',
        1e3 * times['deep'].fastest,
        against=f'{few} blocks',
        reference=1e3 * times['shallow'].fastest,
        most=LINEAR,
        rounds=len(times['deep'].seconds),
        spread=times['deep'].spread,
    )
