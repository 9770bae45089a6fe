"""The whole job, a network in and a smaller network out, beside Torch-Pruning's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from mmprune.bench.networks import batch_of, network_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.peers import Fastest, beside_peer
from mmprune.bench.rows import Row, Step
from mmprune.pruners import ImportancePruner
from mmprune.registry import PRUNERS
from mmprune.zoo.peer import prune_in_place

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
WHAT = {
    'ours': 'prepare_from_supernet, prune by L1 to ratio 0.5, deploy_subnet',
    'peer': "Torch-Pruning's MagnitudePruner, built, and its step",
}


def job_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    fastest = Fastest(SECTION, WHAT)
    for name in options.models or MODELS:
        yield f'network in, network out: {name}', partial(job_rows, name, options, fastest)
    yield 'mean of network in, network out', partial(fastest.rows, [('ours', 'peer', AHEAD)])


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
    prune_in_place(network, data, RATIO, CLASSES, p=1)
    return network


def job_rows(name: str, options: BenchOptions, fastest: Fastest) -> Iterator[Row]:
    """Times of one network, the two taking turns."""
    network = network_of(name, options.device)
    data = batch_of(network, 1, options.size, options.device)
    times = beside_peer(
        network, data, pruned, pruned_by_peer, options, proves=lambda small: small.eval()(data)
    )
    fastest.note(name, times)
    yield fastest.row(name, data, times, 'peer')
