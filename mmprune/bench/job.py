"""The whole job, a network in and a smaller network out, beside Torch-Pruning's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mmprune.bench.execution import Step
from mmprune.bench.networks import batch_of, network_of
from mmprune.bench.rows import Row, geometric_mean
from mmprune.bench.tracing import PEER_SECONDS, Fresh, computing, within
from mmprune.pruners import ImportancePruner
from mmprune.registry import PRUNERS

SECTION = 'job'
RATIO = 0.5
"""Share of its channels that every group keeps."""
AHEAD = 1.0
"""Target: the largest ratio to Torch-Pruning, on average."""
CLASSES = 1000
MODELS = (
    'resnet18', 'resnet50', 'mobilenet_v2_1x', 'mobilenet_v3/mobilenet_v3_small_imagenet',
    'densenet/densenet121', 'inception_v3', 'hrnet/hrnet-w18', 'regnet/regnetx_400mf', 'vgg16',
    'efficientnet_b0', 'resnext50_32x4d', 'seresnet50', 'convnext/convnext-tiny',
    'poolformer/poolformer_s12',
)  # fmt: skip
OURS = 'prepare_from_supernet, prune by L1 to ratio 0.5, deploy_subnet'
THEIRS = "Torch-Pruning's MagnitudePruner, built, and its step"


@dataclass(frozen=True)
class JobOptions:
    """What is measured.

    Attributes:
        models: Model configs of mmcls that both can prune.
        size: Height and width of the image, where a network takes it.
        seconds: How long each network is measured.
        device: Where to measure.
    """

    models: tuple[str, ...] = MODELS
    size: int = 224
    seconds: float = 5.0
    device: str = 'cpu'


@dataclass
class Fastest:
    """Seconds of the fastest rounds of networks that both have pruned, ours and the peer's."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)


def job_steps(options: JobOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    fastest = Fastest()
    for name in options.models:
        yield f'network in, network out: {name}', partial(job_rows, name, options, fastest)
    yield 'mean of network in, network out', partial(mean_rows, fastest)


def pruned(network: nn.Module, data: torch.Tensor) -> nn.Module:
    """The smaller network, by mmprune: every group keeps half of its channels by their L1 norm."""
    pruner: ImportancePruner = PRUNERS.build(
        dict(
            type='ImportancePruner',
            _scope_='mmprune',
            importance=dict(type='L1Importance'),
            scope='local',
            ratio=RATIO,
        )
    )
    pruner.prepare_from_supernet(network, demo_input=data)
    pruner.prune()
    return pruner.deploy_subnet(network, pruner.export_subnet())


def pruned_by_peer(network: nn.Module, data: torch.Tensor) -> nn.Module:
    """The smaller network, by Torch-Pruning with the same criterion and ratio."""
    import torch_pruning

    outputs = [m for m in network.modules() if getattr(m, 'out_features', None) == CLASSES]
    torch_pruning.pruner.MagnitudePruner(
        network,
        data,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=1 - RATIO,
        ignored_layers=outputs,
    ).step()
    return network


def job_rows(name: str, options: JobOptions, fastest: Fastest) -> Iterator[Row]:
    """Times of one network, the two taking turns."""
    network = network_of(name, options.device)
    data = batch_of(network, 1, options.size, options.device)
    ours, theirs = Fresh(network), Fresh(network)
    calls: dict[str, Callable[[], Any]] = {'ours': lambda: pruned(ours.copy, data)}
    before: dict[str, Callable[[], Any]] = {'ours': ours.make}
    if find_spec('torch_pruning') and _is_pruned_by_peer(theirs, data):
        calls['theirs'], before['theirs'] = lambda: pruned_by_peer(theirs.copy, data), theirs.make
    times = computing(calls, options.seconds, options.device, before)
    theirs_fastest = times['theirs'].fastest if 'theirs' in times else None
    if theirs_fastest is not None:
        fastest.ours.append(times['ours'].fastest)
        fastest.theirs.append(theirs_fastest)
    yield Row(
        SECTION,
        f'{name}, {"x".join(map(str, data.shape))}',
        OURS,
        1e3 * times['ours'].fastest,
        against='' if theirs_fastest is None else THEIRS,
        reference=None if theirs_fastest is None else 1e3 * theirs_fastest,
        rounds=len(times['ours'].seconds),
        spread=times['ours'].spread,
    )


def _is_pruned_by_peer(theirs: Fresh, data: torch.Tensor) -> bool:
    """Whether Torch-Pruning gives a network that runs, within its time."""
    theirs.make()
    try:
        with within(PEER_SECONDS):
            pruned_by_peer(theirs.copy, data).eval()(data)
    except Exception:  # whatever it raises on what it does not know
        return False
    return True


def mean_rows(fastest: Fastest) -> Iterable[Row]:
    """Geometric means over the networks; their ratio is the geometric mean of the ratios."""
    if fastest.ours:
        yield Row(
            SECTION,
            f'geometric mean over {len(fastest.ours)} networks',
            OURS,
            1e3 * geometric_mean(fastest.ours),
            against=THEIRS,
            reference=1e3 * geometric_mean(fastest.theirs),
            most=AHEAD,
        )
