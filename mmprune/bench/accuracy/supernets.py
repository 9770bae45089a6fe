"""Widths that are searched at the task: of a trained network, and of a supernet (AutoSlim)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner
from torch import nn

from mmprune.bench.accuracy.data import DATA
from mmprune.bench.accuracy.networks import preprocessor
from mmprune.bench.accuracy.ours import Cut
from mmprune.bench.autoslim import DISTILLER
from mmprune.models import AutoSlim
from mmprune.registry import DATASETS
from mmprune.search.storage import JOURNAL

EIGHTHS = [number / 8 for number in range(2, 9)]
BATCH = 250
TRIED, FEW = {False: 120, True: 60}, 4
"""Candidates for a budget, of a plain network and of a supernet; the latter of few images."""
COMPARED = {False: 'loss', True: 'validation'}
"""By what candidates of a plain network, and of a supernet, are told apart, see ``OfParts``."""
NARROW = 0.25
"""Widths are searched by samplers for shares of the multiply-adds up to this one."""
AUTOSLIM, EACH = 'AutoSlim', 'single widths'
WAYS = {
    'uniform widths': (False, 'Random'),
    'random widths': (False, 'Random'),
    'searched widths': (False, 'TPE'),
    EACH: (False, 'Random'),
    AUTOSLIM: (True, 'greedy'),
    'AutoSlim, uniform widths': (True, 'Random'),
    'AutoSlim, random widths': (True, 'Random'),
}
"""Method -> whether of a supernet that was trained as one, and the search that it is from."""


@DATASETS.register_module()
class Part(BaseDataset):
    """A part of a data set of this benchmark, as pipelines of mmcls begin.

    Args:
        data: A name of ``DATA``.
        split: ``'train'``, ``'val'`` or ``'test'``.
        kwargs: Of mmengine's ``BaseDataset``.
    """

    def __init__(self, data: str, split: str, **kwargs: Any) -> None:
        self.images = DATA[data].images(split)
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images of the part, in their order."""
        pixels = self.images.inputs.permute(0, 2, 3, 1).numpy().astype(np.uint8)
        return [
            dict(img=image, gt_label=int(label), img_shape=image.shape[:2])
            for image, label in zip(pixels, self.images.labels, strict=True)
        ]


@METRICS.register_module()
class OfParts(BaseMetric):
    """What a search sees of a candidate, and what it does not.

    ``validation`` is percent right of the first images and ``loss`` their cross entropy, ``test``
    percent right of the others.

    Args:
        seen: How many images are the first.
    """

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.seen = seen

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Note what is right, and how likely that was thought to be."""
        for sample in data_samples:
            scores, label = sample['pred_label']['score'], int(sample['gt_label']['label'])
            self.results.append((int(scores.argmax()) == label, float(scores[label])))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """The figures of all images."""
        right, likely = np.array(results, float).T
        return {
            'validation': 100 * right[: self.seen].mean(),
            'loss': -np.log(likely[: self.seen].clip(1e-12)).mean(),
            'test': 100 * right[self.seen :].mean(),
        }


def supernet_of(network: nn.Module, importance: str | None = None) -> AutoSlim:
    """The supernet of ``configs/autoslim``, around a network that it takes over.

    Args:
        network: Plain.
        importance: Which channels a width keeps; the first ones if None.
    """
    own: Any = network.data_preprocessor
    return AutoSlim(
        network,
        dict(
            type='RatioPruner',
            ratios=EIGHTHS,
            importance=importance,
            except_start_keys=['head.fc'],
        ),
        distiller=DISTILLER,
        input_shape=own.image_shape,
        recalibration=dict(num_batches=2, batch_size=128),
    )


def search(
    supernet: AutoSlim,
    name: str,
    way: tuple[bool, str],
    targets: Sequence[float],
    folder: Path,
    indices: int | None,
    seed: int,
) -> Any:
    """Search widths; a search that was stopped goes on.

    Candidates are told apart by validation images: of MNIST the last 1,000 to train on, which
    candidates are not recalibrated or compensated with.

    Args:
        supernet: Trained.
        name: Of the data set.
        way: One of ``WAYS``.
        targets: Shares of the multiply-adds, descending.
        folder: For the search's files.
        indices: How many images of each part are used; None for all.
        seed: Of what is drawn.

    Returns:
        The loop that has searched.
    """
    data = DATA[name]
    is_trained, sampler = way
    loop: dict[str, Any]
    if sampler == 'greedy':
        loop = dict(type='mmprune.GreedySearchLoop', targets=list(targets))
        loop.update(max_channel_bins=8, min_channel_bins=2)
    else:
        limits = [dict(macs=target) for target in targets if target <= NARROW]
        loop = dict(type='mmprune.OptunaSearchLoop', sampler=sampler, constraints=limits)
        loop.update(candidates=TRIED[is_trained] if indices is None else FEW)
        loop.update(compensation=None if is_trained else 'LeastSquares')
    loader: dict[str, Any] = dict(
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    crop = dict(type='RandomCrop', crop_size=data.size, padding=1)

    def of(split: str, *transforms: dict[str, Any]) -> dict[str, Any]:
        pipeline = [*transforms, dict(type='PackClsInputs')]
        part = dict(type='mmprune.Part', data=name, split=split, pipeline=pipeline)
        return dict(part, indices=indices)

    judged = dict(type='ConcatDataset', datasets=[of('val'), of('test')])
    train = dict(loader, batch_size=64, dataset=of('rest', crop))
    runner = Runner(
        model=supernet,
        work_dir=str(folder),
        val_dataloader=dict(loader, batch_size=BATCH, dataset=judged),
        val_cfg=dict(
            loop,
            metric=COMPARED[is_trained],
            seed=seed,
            resume=(folder / JOURNAL).is_file(),
        ),
        val_evaluator=dict(type='OfParts', seen=len(data.images('val').first(indices))),
        data_preprocessor=preprocessor(data),
        default_scope='mmcls',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level=logging.WARNING,
        experiment_name=f'search_{folder.name}',
        cfg=Config(dict(train_dataloader=train, default_scope='mmcls')),
    )
    runner.val()
    return runner.val_loop


def cut(loop: Any, method: str, target: float, number: str) -> Cut:
    """A network of a search, with what the search has seen of it.

    Args:
        loop: Of ``search``.
        method: Of ``WAYS``. Of ``'random widths'`` the best as a search sees them is taken, and
            what is said of the test images are the mean and the spread of all.
        target: Share of the multiply-adds.
        number: Of ``EACH``, which one.
    """
    chosen = dict(loop.chosen)[f'{target:g}']
    own = [e for e in loop.study.evaluations.values() if e.budget == f'{target:g}']
    drawn = sorted((e for e in own if e.origin != 'uniform'), key=lambda e: e.index)
    if 'uniform' in method:
        (chosen,) = (e for e in own if e.origin == 'uniform')
    elif 'random' in method:
        chosen = min(drawn, key=loop.rank)
    elif method == EACH:
        chosen = drawn[int(number)]
    seen = dict(chosen.metrics)
    if 'random' in method:
        tested = [e.metrics['test'] for e in drawn]
        seen.update(tried=len(tested), test_mean=mean(tested), test_spread=stdev(tested))
    pruner = loop.algorithm.pruner
    pruner.set_subnet(pruner.subnet_from(chosen.channels))
    channel_cfg = pruner.export_subnet()
    network = pruner.deploy_subnet(loop.algorithm.architecture, channel_cfg)
    pruner.set_max_channel()
    return Cut(network, None if WAYS[method][0] else channel_cfg, seen)
