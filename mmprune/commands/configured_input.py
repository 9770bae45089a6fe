"""What the network of a config is run on, where nobody says it: an image that it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmprune.config import enter_scope
from mmprune.errors import InputError
from mmprune.missing_data import data_named
from mmprune.models import AutoSlim
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.models.demo_inputs.poses import codec_size
from mmprune.randomness import seeded
from mmprune.registry import DATASETS, MODELS

_WITH_IMAGES = ('test_dataloader', 'val_dataloader', 'train_dataloader')


def is_supernet(model: Mapping[str, Any]) -> bool:
    """Whether the model of a config is an AutoSlim, or of a class that is made of it."""
    kind = model.get('type')
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, AutoSlim)


def input_of(cfg: Config, network: nn.Module, shape: Sequence[int] | None) -> ConfiguredInput:
    """What the network of a config is run on: ``shape``, or as the config or the network says.

    Where neither does, it is the size of the first image that the config tests on, or, where its
    data cannot be read, what its pipeline crops or resizes images to.

    Raises:
        InputError: The shape is none, or the config's ``demo_input`` is of an unknown type.
    """
    settings, own = cfg.get('demo_input'), None
    if is_supernet(cfg.model):
        settings, own = cfg.model.get('demo_input', settings), cfg.model.get('input_shape')
    option = 'input_shape' if own and not shape else '--input-shape'
    shape = shape or own or (settings or {}).get('input_shape')
    if shape is None and codec_size(network) is None:
        try:
            shape = shape_of_images(cfg)
        except Exception:  # whatever a dataset raises: nobody has asked for its images
            shape = _shape_of_pipeline(cfg)
    return ConfiguredInput.of(network, settings, shape, option)


def shape_of_images(cfg: Config) -> tuple[int, ...] | None:
    """(1, C, H, W) of the first image that a config tests on; None without any.

    Raises:
        InputError: The data are not there, or the first item has no image of a shape.
    """
    name = _with_images(cfg)
    if name is None:
        return None
    with seeded(0), enter_scope(cfg), data_named(cfg):
        sample = DATASETS.build(deepcopy(cfg[name].dataset))[0]
    inputs = sample.get('inputs') if isinstance(sample, Mapping) else None
    found = getattr(inputs, 'shape', None)
    if found is None:
        raise InputError(
            f'{cfg.filename}: the first item of {name} has no inputs with a shape: give '
            '--input-shape N C H W'
        )
    return _told(cfg, (1, *found), f'the first image of {name}')


def _shape_of_pipeline(cfg: Config) -> tuple[int, ...] | None:
    """What images are cropped to, or resized to on both sides, at last; None if that may differ."""
    name = _with_images(cfg)
    preprocessor = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
    for step in reversed((name and cfg[name].dataset.get('pipeline')) or ()):
        size = step.get('crop_size') or step.get('scale')
        if size is not None and not step.get('keep_ratio'):
            width, height = (size, size) if isinstance(size, int) else size
            channels = len(preprocessor.get('mean') or range(3))
            return _told(cfg, (1, channels, height, width), f'as the pipeline of {name} makes them')
    return None


def _with_images(cfg: Config) -> str | None:
    return next((name for name in _WITH_IMAGES if isinstance(cfg.get(name), Mapping)), None)


def _told(cfg: Config, shape: tuple[int, ...], source: str) -> tuple[int, ...]:
    size = 'x'.join(map(str, shape))
    print_log(
        f'{cfg.filename}: traced, and MACs counted, on {size}, {source}; another size: '
        '--input-shape',
        logger='current',
    )
    return shape
