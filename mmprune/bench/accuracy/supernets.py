"""AutoSlim at the task: a supernet, a greedy search, and the subnets that it finds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmprune.bench.accuracy.data import DATA
from mmprune.bench.accuracy.networks import preprocessor
from mmprune.bench.autoslim import DISTILLER
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.models import AutoSlim
from mmprune.search.storage import JOURNAL

DIGITS = DATA['digits']
EIGHTHS = [number / 8 for number in range(2, 9)]


def supernet_of(network: nn.Module) -> AutoSlim:
    """The supernet of ``configs/autoslim``, around a network that it takes over."""
    return AutoSlim(
        network,
        dict(type='RatioPruner', ratios=EIGHTHS, except_start_keys=['head.fc']),
        distiller=DISTILLER,
        input_shape=DIGITS.shape,
        recalibration=dict(num_batches=2, batch_size=128),
    )


def search(
    supernet: AutoSlim, targets: Sequence[float], folder: Path, indices: int | None
) -> list[nn.Module]:
    """The best subnets that a greedy search finds, deployed.

    Candidates are told apart by the 180 validation images. A search that was stopped goes on.

    Args:
        supernet: Trained.
        targets: Shares of the multiply-adds, descending.
        folder: For the search's files.
        indices: How many images of each part are used; None for all.

    Returns:
        A network per target.
    """
    loader: dict[str, Any] = dict(
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    crop = dict(type='RandomCrop', crop_size=DIGITS.size, padding=1)
    pack = dict(type='PackClsInputs')

    def of(split: str, pipeline: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
        data = dict(type='mmprune.Digits', split=split, pipeline=pipeline, indices=indices)
        return dict(loader, batch_size=batch_size, dataset=data)

    cfg = Config(dict(train_dataloader=of('train', [crop, pack], 64), default_scope='mmcls'))
    runner = Runner(
        model=supernet,
        work_dir=str(folder),
        val_dataloader=of('val', [pack], 180),
        val_cfg=dict(
            type='mmprune.GreedySearchLoop',
            targets=list(targets),
            max_channel_bins=8,
            min_channel_bins=2,
            resume=(folder / JOURNAL).is_file(),
        ),
        val_evaluator=dict(type='Accuracy', topk=1),
        data_preprocessor=preprocessor(DIGITS),
        default_scope='mmcls',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level=logging.WARNING,
        experiment_name=f'search_{folder.name}',
        cfg=cfg,
    )
    runner.val()
    found = []
    for result in runner.val_loop.results:
        channel_cfg = load_channel_cfg(result.channel_cfg)
        supernet.pruner.set_subnet(supernet.pruner.load_channel_cfg(channel_cfg))
        found.append(supernet.pruner.deploy_subnet(supernet.architecture, channel_cfg))
    supernet.pruner.set_max_channel()
    return found
