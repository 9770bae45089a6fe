"""Widths that are learned while a network trains: Group Fisher, DMCP, DCFF, by their hooks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmcls.structures import ClsDataSample
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmprune.bench.accuracy.data import Images
from mmprune.bench.accuracy.training import BATCH, MOMENTUM, WARMUP, WEIGHT_DECAY, shifted
from mmprune.bench.autoslim import DISTILLER
from mmprune.models import AutoSlim
from mmprune.training import DCFF, DMCP, IterativePruning

FISHER = 'Group Fisher, greedily'
LEARNED = (FISHER, 'DMCP', 'DCFF')
REMOVALS = 50
"""About how many times Group Fisher removes channels."""


def learned(
    method: str,
    network: nn.Module,
    images: Images,
    budget: float,
    epochs: int,
    lr: float,
    seed: int,
    folder: Path,
) -> nn.Module:
    """Train a fresh network, and let its widths be learned meanwhile; the small one.

    Group Fisher removes channels in the second half of the training but for the last epoch; DCFF
    takes the mixtures for the weights before the last epoch.

    Args:
        method: One of ``LEARNED``.
        network: With random weights; it is used up.
        images: To train on.
        budget: Multiply-adds of the small network.
        epochs: Of the whole training, 2 or more.
        lr: The highest learning rate.
        seed: Of the order of the images, of their shifts, and of the widths that are drawn.
        folder: For the runner's files.
    """
    options = dict(budget=dict(macs=budget), except_start_keys=['head.fc'])
    preprocessor: Any = network.data_preprocessor
    shape: Sequence[int] = preprocessor.image_shape
    steps = epochs * -(-len(images) // BATCH)
    model, hook = network, None
    if method == 'DMCP':
        eighths = [eighth / 8 for eighth in range(1, 9)]
        pruner = dict(type='MarkovPruner', ratios=eighths, **options)
        model = AutoSlim(network, pruner, copy.deepcopy(DISTILLER), input_shape=shape)
        hook = DMCP()
    elif method == 'DCFF':
        pruner = dict(type='ImportancePruner', importance='Fusion', scope='local', **options)
        hook = DCFF(pruner, shape, end=max(1, epochs - 1))
    else:
        pruner = dict(
            type='ImportancePruner', importance='GroupFisher', score_per='macs', **options
        )
        begin, end = steps // 2, steps - steps // epochs
        interval = max(1, (end - begin) // REMOVALS)
        groups = sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
        hook = IterativePruning(
            pruner, shape, begin, end, interval, by_epoch=False, listen=True,
            channels=max(1, groups // REMOVALS // 2),
        )  # fmt: skip
    _run(model, hook, images, epochs, lr, seed, folder)
    if isinstance(model, AutoSlim):
        return model.pruner.deploy_subnet(model.architecture).eval()
    return model.eval()


def _run(
    model: Any, hook: Any, images: Images, epochs: int, lr: float, seed: int, folder: Path
) -> None:
    """As ``training.train``, by mmengine's runner."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // BATCH)
    warm = max(1, round(WARMUP * steps))

    def batch(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Any]:
        inputs = shifted(torch.stack([image for image, _ in samples]), generator)
        labels = [ClsDataSample().set_gt_label(int(label)) for _, label in samples]
        return {'inputs': inputs, 'data_samples': labels}

    data = TensorDataset(images.inputs, images.labels)
    sgd = dict(type='SGD', lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=warm, end=steps, eta_min=0)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(data, BATCH, True, generator=generator, collate_fn=batch),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=sgd),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=warm), cosine],
        default_hooks=dict(checkpoint=None, sampler_seed=None),
        custom_hooks=[hook],
        randomness=dict(seed=seed),
        default_scope='mmcls',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level=logging.WARNING,
        experiment_name=folder.name,
    )
    runner.train()
