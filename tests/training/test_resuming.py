"""A training that is stopped and resumed ends like one that ran through, to the last bit."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iterative_config import PRUNER
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import TRANSFORMS
from mmengine.runner import CheckpointLoader

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import train
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.lock import only_run_in
from mmprune.pruners import RatioPruner
from mmprune.training.resuming import AtomicBackend, newest_checkpoint


@TRANSFORMS.register_module(force=True)
class Noise:
    """Draws from all three sources."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        drawn = random.random() + np.random.rand() + torch.rand(1).item()
        results['img'] = (results['img'] + 20 * drawn).astype(results['img'].dtype)
        return results


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    yield
    register_backend('local', LocalBackend, force=True, prefixes='')


def small(base: str = 'resnet-small_1xb64_digits.py', **options: Any) -> Config:
    """Three epochs of three batches, with chance in the order, the images and the labels."""
    cfg = load_config(base)
    is_slimmable = cfg.model.type == 'mmprune.AutoSlim'
    network = cfg.model.architecture if is_slimmable else cfg.model
    network.backbone.update(stem_channels=8, base_channels=8)
    network.head.in_channels = 32
    if not is_slimmable:
        network.train_cfg = dict(augments=dict(type='Mixup', alpha=0.8))
        network.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=1),
        dict(type='Noise'),
        dict(type='PackClsInputs'),
    ]
    cfg.merge_from_dict(
        {
            'train_dataloader.batch_size': 16,
            'train_dataloader.dataset.indices': 48,
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 1,
            'val_dataloader.dataset.indices': 20,
            'default_hooks.checkpoint.interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'param_scheduler': [],
            'log_level': 'ERROR',
        }
    )
    cfg.merge_from_dict(options)
    return cfg


def iterations(cfg: Config, **sampler: Any) -> Config:
    cfg.train_cfg = dict(by_epoch=False, max_iters=7, val_interval=3)
    cfg.train_dataloader.sampler = sampler
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    cfg.log_processor = dict(by_epoch=False)
    return cfg


def hooked(cfg: Config, *hooks: dict[str, Any]) -> Config:
    cfg.custom_hooks = list(hooks)
    return cfg


def in_workers(cfg: Config, number: int = 2) -> Config:
    return cfg.merge_from_dict(
        {
            'train_dataloader.num_workers': number,
            'train_dataloader.persistent_workers': True,
        }
    ) or cfg


PRUNING = dict(type='mmprune.IterativePruning', input_shape=(1, 1, 8, 8), begin=0)
LISTENING = dict(PRUNER, importance=dict(type='GroupFisherImportance'))
GROWING = dict(
    type='mmprune.GrowingPenalty', pruner=PRUNER, input_shape=(1, 1, 8, 8), weight=1e-4, interval=1
)
ITERATION = {'default_hooks.checkpoint.by_epoch': False}
KINDS: dict[str, tuple[Callable[[], Config], str]] = {
    'in workers': (lambda: in_workers(small()), 'epoch_1'),
    'no seed in the config': (lambda: small(randomness=dict(seed=None)), 'epoch_2'),
    'many widths': (lambda: small('autoslim_resnet-tiny_1xb32_digits.py'), 'epoch_1'),
    'slimming': (lambda: small('slimming_resnet-small_1xb64_digits.py'), 'epoch_1'),
    'pruned by epochs': (
        lambda: hooked(small(), dict(PRUNING, pruner=dict(PRUNER), end=2), dict(type='EMAHook')),
        'epoch_1',
    ),
    'pruned by what it hears': (
        lambda: hooked(
            small(**ITERATION),
            dict(PRUNING, pruner=LISTENING, end=6, interval=3, by_epoch=False, listen=True),
        ),
        'iter_5',
    ),
    'a growing penalty': (lambda: hooked(small(), GROWING), 'epoch_2'),
    'in the middle of an epoch': (lambda: in_workers(small(**ITERATION)), 'iter_4'),
    'at the end of an epoch, by iterations': (lambda: small(**ITERATION), 'iter_3'),
    'by iterations': (
        lambda: in_workers(iterations(small(), type='InfiniteSampler', shuffle=True)),
        'iter_4',
    ),
    'by iterations, beyond a pass': (
        lambda: iterations(small(), type='DefaultSampler', shuffle=True),
        'iter_4',
    ),
    'gradients that wait': (
        lambda: small(**{'optim_wrapper.accumulative_counts': 2}),
        'epoch_1',
    ),
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_resumed_training_ends_like_one_that_ran_through(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    make, stopped = KINDS[kind]
    cfg = make()
    train(make(), tmp_path / 'whole')
    last = (tmp_path / 'whole' / 'last_checkpoint').read_text().rpartition('/')[2]
    (tmp_path / 'stopped').mkdir()
    shutil.copy(tmp_path / 'whole' / f'{stopped}.pth', tmp_path / 'stopped')
    torch.manual_seed(123)
    if cfg.train_dataloader.num_workers:
        cfg.train_dataloader.num_workers = 1  # how many there are does not matter
    train(cfg, tmp_path / 'stopped', 'auto')
    before = read_checkpoint(tmp_path / 'whole' / f'{stopped}.pth')
    whole, resumed = (read_checkpoint(tmp_path / f / last) for f in ('whole', 'stopped'))
    for key in whole.keys() & {'state_dict', 'ema_state_dict', 'optimizer', 'mmprune_gradients'}:
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
    assert resumed['meta']['iter'] == whole['meta']['iter'] > before['meta']['iter']
