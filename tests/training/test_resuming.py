"""A training that is stopped and resumed ends like one that ran through, to the last bit."""

import random
import re
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
from spoiled_states import assert_spoiled_states_are_refused
from torch.utils.data import DataLoader, TensorDataset

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import train
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.lock import only_run_in
from mmprune.training.resuming import AtomicBackend, newest_checkpoint, number_batches


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


def in_workers(cfg: Config) -> Config:
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    return cfg


PRUNING = dict(type='mmprune.IterativePruning', input_shape=(1, 1, 8, 8), begin=0)
LISTENING = dict(PRUNER, importance=dict(type='GroupFisherImportance'))
# At the start all scales are 1, so that what is chosen then is not what would be later.
SCALES = dict(PRUNER, importance=dict(type='BNScaleImportance'))
GROWING = dict(type='mmprune.GrowingPenalty', pruner=SCALES, input_shape=(1, 1, 8, 8), weight=1e-4)
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
    'patience': (
        lambda: hooked(
            small(**{'train_cfg.max_epochs': 5}),
            dict(type='EarlyStoppingHook', monitor='accuracy/top1', min_delta=1000, patience=2),
        ),
        'epoch_2',
    ),
    'gradients that wait': (
        lambda: small(**{'optim_wrapper.accumulative_counts': 2}),
        'epoch_1',
    ),
}


# What of a hook is in its checkpoints.
KEPT = {
    'slimming': 'mmprune_scales',
    'pruned by what it hears': 'mmprune_heard',
    'gradients that wait': 'mmprune_gradients',
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
    assert (tmp_path / 'stopped' / 'last_checkpoint').read_text().endswith(f'/{last}')
    before = read_checkpoint(tmp_path / 'whole' / f'{stopped}.pth')
    whole, resumed = (read_checkpoint(tmp_path / f / last) for f in ('whole', 'stopped'))
    for key in whole.keys() & {'state_dict', 'ema_state_dict', 'optimizer', 'mmprune_gradients'}:
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
    assert resumed['meta']['iter'] == whole['meta']['iter'] > before['meta']['iter']
    if kind in KEPT:
        assert_spoiled_states_are_refused(make, tmp_path / 'whole' / f'{stopped}.pth', KEPT[kind])


def test_other_settings_are_told_and_other_schedules_refused(tmp_path: Path) -> None:
    schedule = [dict(type='CosineAnnealingLR', T_max=4), dict(type='LinearLR', end=2)]
    train(small(param_scheduler=schedule), tmp_path)
    more = {'optim_wrapper.optimizer.lr': 7.0, 'randomness.seed': 5, 'log_level': 'WARNING'}
    given = small(param_scheduler=schedule, **more)
    runner = train(given, tmp_path / 'other', resume=tmp_path / 'epoch_3.pth')
    (log,) = (tmp_path / 'other').rglob('*.log')
    told = r'\.lr was 0\.1, is 7\.0, .*\.seed was 0, is 5\. What(.|\n)*nothing is left'
    assert re.search(told, log.read_text())
    assert runner.seed == 0
    for other, message in (
        (schedule[:1], 'are 2, and the config has 1'),
        (schedule[::-1], 'are of another kind than LinearLR'),
    ):
        with pytest.raises(InputError, match=f'epoch_3.pth: its param_schedulers {message}'):
            train(small(param_scheduler=other), tmp_path / 'x', resume=tmp_path / 'epoch_3.pth')


def test_a_kill_while_saving_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one checkpoint to be kept, which mmengine removes before it writes the next one."""
    put = AtomicBackend.put

    def killed(self: AtomicBackend, obj: bytes, filepath: str) -> None:
        if filepath.endswith('epoch_2.pth'):
            raise KeyboardInterrupt
        put(self, obj, filepath)

    options = {'default_hooks.checkpoint.max_keep_ckpts': 1}
    with monkeypatch.context() as patch:
        patch.setattr(AtomicBackend, 'put', killed)
        with pytest.raises(KeyboardInterrupt):
            train(small(**options), tmp_path)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    # What a kill leaves of the file that names it, which mmengine writes in place.
    (tmp_path / 'last_checkpoint').write_text('')
    cfg = small(**options)
    cfg.default_hooks.checkpoint.update(save_best='accuracy/top1', rule='less')
    train(cfg, tmp_path, 'auto')
    (best,) = tmp_path.glob('best_*.pth')
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_3.pth', best.name}


def test_of_several_checkpoints_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    content = dict(state_dict={}, meta={}, optimizer={}, message_hub={})
    for name in ('epoch_1.pth', 'iter_2.pth', 'epoch_3.pth'):
        torch.save(content, tmp_path / name)
    torch.save({'state_dict': {}}, tmp_path / 'best_4.pth')
    folder = str(tmp_path)
    assert newest_checkpoint(folder) == str(tmp_path / 'epoch_3.pth')
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_3.pth').read_bytes()[:100])
    assert newest_checkpoint(folder) == str(tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert newest_checkpoint(folder) == str(tmp_path / 'epoch_1.pth')
    for junk in (b'\xff\xfe', b'\0' * 64, b'x' * 9000):
        (tmp_path / 'last_checkpoint').write_bytes(junk)
        assert newest_checkpoint(folder) == str(tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    (tmp_path / 'iter_2.pth').unlink()
    (tmp_path / 'epoch_1.pth').unlink()
    with pytest.raises(InputError, match=r'epoch_3\.pth: not a checkpoint, or cut off'):
        newest_checkpoint(folder)
    (tmp_path / 'epoch_3.pth').unlink()
    with pytest.raises(InputError, match=r'epoch_1\.pth, which does not exist'):
        newest_checkpoint(folder)
    (tmp_path / 'last_checkpoint').write_text('')
    assert newest_checkpoint(folder) is None


def test_the_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    with only_run_in(tmp_path, 'a training'):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError, match='a training goes on here in process'):
            train(small(), tmp_path)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_numbered_once_and_what_is_no_index_is_left_alone(workers: int) -> None:
    data = TensorDataset(torch.arange(8.0))
    loader = DataLoader(data, 2, shuffle=True, num_workers=workers)
    passes = []
    for _ in range(2):
        numbered = number_batches(loader, 0)
        assert numbered is not None
        assert len(numbered) == 4 == len(loader)
        assert numbered.batch_size == 2
        passes.append([[batch.tolist() for (batch,) in loader] for _ in range(2)])
    assert passes[0] == passes[1]
    assert passes[0][0] != passes[0][1]
    assert number_batches(DataLoader(data, None), 0) is None
    assert number_batches(DataLoader([1, 2]), 0) is None  # type: ignore[arg-type]
    assert number_batches([1, 2], 0) is None
