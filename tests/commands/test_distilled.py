"""Training with a teacher goes on where it was interrupted."""

import shutil
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.export_subnet import export_subnet
from mmprune.commands.run import evaluate, train
from mmprune.config import load_config
from mmprune.registry import MODELS

# No random crops: what is resumed must be equal to the last bit.
SHORT: dict[str, Any] = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.dataset.indices': 64,
    'train_dataloader.batch_size': 32,
    'train_dataloader.dataset.pipeline': [{'type': 'PackClsInputs'}],
    'param_scheduler': [],
    'log_level': 'ERROR',
    'custom_hooks': [dict(type='EMAHook')],
}
CONFIG = 'distill_resnet-small_1xb64_digits.py'


def config_of(untrained: Path, folder: Path) -> Config:
    """The project's config on the tiny network, whose weights are as they were drawn."""
    tiny = load_config('autoslim_resnet-tiny_1xb32_digits.py').model.architecture
    init_default_scope('mmcls')
    weights = read_checkpoint(untrained)['state_dict']
    full = {
        name.removeprefix('architecture.'): value
        for name, value in weights.items()
        if not name.endswith('_mask')
    }
    torch.save({'state_dict': full}, folder / 'full.pth')
    channel_cfg = export_subnet(
        'autoslim_resnet-tiny_1xb32_digits.py', untrained, subnet='min', out=folder / 'min.yaml'
    )
    cfg = load_config(CONFIG, SHORT)
    cfg.model.architecture = dict(
        type='mmprune.DeployedModel', model=tiny, channel_cfg=str(channel_cfg)
    )
    cfg.model.teacher.checkpoint = str(folder / 'full.pth')
    cfg.load_from = None
    return cfg


def test_resuming_ends_where_an_uninterrupted_training_does(
    untrained: Path, tmp_path: Path
) -> None:
    cfg = config_of(untrained, tmp_path)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train(cfg, whole)
    parts.mkdir()
    shutil.copy(whole / 'epoch_1.pth', parts)
    train(cfg, parts, resume=parts / 'epoch_1.pth')
    expected, found = (read_checkpoint(folder / 'epoch_2.pth') for folder in (whole, parts))
    torch.testing.assert_close(found['state_dict'], expected['state_dict'], rtol=0, atol=0)
    torch.testing.assert_close(found['ema_state_dict'], expected['ema_state_dict'], rtol=0, atol=0)
    student = MODELS.build(cfg.model.architecture)
    assert [*found['state_dict']] == [*student.state_dict()]
    assert len(found['optimizer']['state']) == len([*student.parameters()])
    # The plain config tests the checkpoint, and so does the one with the teacher, without it.
    (tmp_path / 'full.pth').unlink()
    plain = load_config(cfg)
    plain.model = cfg.model.architecture
    metrics = [evaluate(each, parts / 'epoch_2.pth', tmp_path / 'test') for each in (plain, cfg)]
    assert metrics[0] == metrics[1]
