"""A config that prunes a tiny network while it trains, in seconds."""

from typing import Any

from mmengine.config import Config

from mmprune.config import load_config

PRUNER = dict(type='ImportancePruner', budget=dict(macs=0.5), scope='local')
PLAIN = [dict(type='PackClsInputs')]


def tiny(**hook: Any) -> Config:
    """The config of the digits with a small network, few images, and no chance in them."""
    cfg = load_config('iterative_resnet-small_1xb64_digits.py')
    cfg.merge_from_dict(
        {
            'model.backbone.stem_channels': 8,
            'model.backbone.base_channels': 8,
            'model.head.in_channels': 32,
            'train_dataloader.batch_size': 32,
            'train_dataloader.dataset.indices': 96,
            'test_dataloader.dataset.indices': 60,
            'train_cfg.max_epochs': 4,
            'train_cfg.val_interval': 10,
            'default_hooks.checkpoint.interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'param_scheduler': [],
            'log_level': 'WARNING',
        }
    )
    cfg.train_dataloader.dataset.pipeline = PLAIN
    settings = dict(pruner=dict(PRUNER), input_shape=(1, 1, 8, 8), begin=0, end=2, interval=1)
    cfg.custom_hooks = [dict(type='mmprune.IterativePruning', **{**settings, **hook})]
    return cfg
