"""Models of mmdet, mmseg, mmpose and mmyolo from the configs that come with these packages."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn


def config_of(package: str, path: str, **options: Any) -> Config:
    """A config below ``<package>/.mim/configs``, with options as ``--cfg-options`` takes them."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    cfg = Config.fromfile(Path(spec.origin).with_name('.mim') / 'configs' / path)
    cfg.merge_from_dict(options)
    return cfg


def build_model(package: str, path: str, **options: Any) -> nn.Module:
    """The model of that config, with random weights, in eval mode."""
    importlib.import_module(f'{package}.models')
    cfg = config_of(package, path, **options)
    init_default_scope(package)
    return MODELS.build(cfg.model).eval()
