"""Fixtures of all tests: a tiny supernet's config, and checkpoints of it, new and trained a little.

What trains and searches brings mmcls along, and is imported by the tests that ask for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope

from mmprune.config import load_config
from mmprune.registry import MODELS

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


@pytest.fixture
def cfg() -> Config:
    return load_config(CONFIG)


@pytest.fixture(scope='session')
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny supernet with random weights."""
    cfg = load_config(CONFIG)
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    path = tmp_path_factory.mktemp('untrained') / 'supernet.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    DefaultScope._instance_dict.clear()
    return path


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny supernet that is right more often than not."""
    from mmprune.commands.run import train

    folder = tmp_path_factory.mktemp('trained')
    options = {
        'train_dataloader.dataset.indices': 640,
        'train_cfg.max_epochs': 6,
        'train_cfg.val_interval': 100,
        'default_hooks.checkpoint.interval': 6,
        'log_level': 'WARNING',
    }
    train(CONFIG, folder, cfg_options=options)
    return folder / 'epoch_6.pth'


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Search with some settings of search_cfg changed, into ``tmp_path/<folder>``; undrawn."""
    from mmprune.commands.search_subnet import search_subnet

    monkeypatch.setattr('mmprune.search.page.SearchFiles.draw', lambda *_: None)

    def search(
        checkpoint: Path, folder: str = 'search', resume: bool = False, **search_cfg: Any
    ) -> Any:
        cfg = load_config(CONFIG)
        kind = search_cfg.get('type', cfg.search_cfg.type)
        if kind != cfg.search_cfg.type:
            cfg.search_cfg = {}
        cfg.search_cfg.update(search_cfg)
        return search_subnet(cfg, checkpoint, tmp_path / folder, resume=resume)

    return search
