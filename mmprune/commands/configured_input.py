"""What the network of a config is run on, where nobody says it: an image that it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmprune.config import enter_scope
from mmprune.errors import InputError, MissingFileError
from mmprune.missing_data import data_named
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.models.demo_inputs.poses import codec_size
from mmprune.randomness import seeded
from mmprune.registry import DATASETS

SUPERNETS = ('AutoSlim', 'mmprune.AutoSlim')
_WITH_IMAGES = ('test_dataloader', 'val_dataloader', 'train_dataloader')


def input_of(cfg: Config, network: nn.Module, shape: Sequence[int] | None) -> ConfiguredInput:
    """What the network of a config is run on: ``shape``, or as the config or the network says.

    Raises:
        InputError: The shape is none, or the config's ``demo_input`` is of an unknown type.
    """
    settings, own = cfg.get('demo_input'), None
    if cfg.model.get('type') in SUPERNETS:
        settings, own = cfg.model.get('demo_input', settings), cfg.model.get('input_shape')
    option = 'input_shape' if own and not shape else '--input-shape'
    shape = shape or own or (settings or {}).get('input_shape')
    if shape is None and codec_size(network) is None:
        shape = shape_of_images(cfg)
    return ConfiguredInput.of(network, settings, shape, option)


def shape_of_images(cfg: Config) -> tuple[int, ...] | None:
    """(1, C, H, W) of the first image that a config tests on, or of what its pipeline says.

    The pipeline is asked where the data are not there, and says it if it ends in a crop, or in a
    resize to both sides. None: nothing says it.

    Raises:
        InputError: The first item has no image of a shape.
    """
    name = next((name for name in _WITH_IMAGES if isinstance(cfg.get(name), Mapping)), None)
    if name is None:
        return None
    dataset = deepcopy(cfg[name].dataset)
    try:
        with seeded(0), enter_scope(cfg), data_named(cfg):
            sample = DATASETS.build(deepcopy(dataset))[0]
    except MissingFileError:
        found, source = _of_pipeline(cfg, dataset), f'the size of the pipeline of {name}'
        if found is None:
            return None
    else:
        inputs, source = sample.get('inputs') if isinstance(sample, Mapping) else None, ''
        found, source = getattr(inputs, 'shape', None), f'the first image of {name}'
        if found is None:
            raise InputError(
                f'{cfg.filename}: the first item of {name} has no inputs with a shape: give '
                '--input-shape N C H W'
            )
    shape = (1, *found)
    size = 'x'.join(map(str, shape))
    print_log(
        f'{cfg.filename}: traced, and MACs counted, on {size}, {source}; another size: '
        '--input-shape',
        logger='current',
    )
    return shape


def _of_pipeline(cfg: Config, dataset: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(C, H, W) of what a pipeline crops or resizes images to at last, where that is fixed."""
    preprocessor = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
    for step in reversed(dataset.get('pipeline') or ()):
        size = step.get('crop_size') or step.get('scale')
        if size is not None and not step.get('keep_ratio'):
            width, height = (size, size) if isinstance(size, int) else size
            return len(preprocessor.get('mean') or range(3)), height, width
    return None
