"""The networks of the zoo: model configs of mmcls, built with numbers that prove something."""

from __future__ import annotations

import difflib
import math
from pathlib import Path

import mmcls
import torch
from mmcls.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmprune.errors import InputError

PLAIN_BAR, GROUPED_BAR = 0.40, 0.50
"""Share of the parameters that a network may keep when every group keeps half."""

ZOO: dict[str, float] = {
    **dict.fromkeys(
        (
            'resnet18',
            'resnet34',
            'resnet50',
            'resnet50_cifar',
            'resnet34_gem',
            'resnetv1c50',
            'resnetv1d50',
            'wide-resnet50',
            'seresnet50',
            'vgg11',
            'vgg16bn',
            'mobilenet_v2_1x',
            'mobilenet_v3/mobilenet_v3_small_imagenet',
            'mobilenet_v3/mobilenet_v3_large_imagenet',
            'densenet/densenet121',
            'inception_v3',
            'hrnet/hrnet-w18',
            'repvgg-A0_in1k',
            'mobileone/mobileone_s0',
            'efficientnet_b0',
            'efficientnet_em',
            'efficientnet_v2/efficientnetv2_b0',
            'efficientnet_v2/efficientnetv2_s',
            'convmixer/convmixer-768-32',
            'convnext/convnext-tiny',
        ),
        PLAIN_BAR,
    ),
    **dict.fromkeys(('resnext50_32x4d', 'seresnext50_32x4d', 'regnet/regnetx_400mf'), GROUPED_BAR),
}
"""Model config of mmcls -> the share of its parameters that may stay at ratio 0.5."""

SIZES = (64, 96, 224, 256, 299, 384)
"""Image sizes to try: the smallest that a network accepts is the fastest proof."""


def config_folder() -> Path:
    """Where mmcls keeps its model configs."""
    return Path(mmcls.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'


def resolve(name: str) -> str:
    """The config that a name means: a path below ``_base_/models``, or the end of one.

    Raises:
        InputError: No config, or several, have this name.
    """
    folder = config_folder()
    names = [str(p.relative_to(folder).with_suffix('')) for p in sorted(folder.rglob('*.py'))]
    if name in names:
        return name
    found = [other for other in names if other.rpartition('/')[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"'{name}' may be any of {found}: give its folder too")
    similar = difflib.get_close_matches(name, [*names, *(n.rpartition('/')[2] for n in names)])
    hint = f'similar ones: {similar}' if similar else f'they are in {folder}'
    raise InputError(f"mmcls has no model config '{name}'; {hint}")


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of mmcls in float64 and eval mode, all of its numbers drawn from ``seed``."""
    config = Config.fromfile(config_folder() / f'{resolve(name)}.py').model
    config.setdefault('_scope_', 'mmcls')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = MODELS.build(config)
        return randomise(model.double().eval())


def randomise(model: nn.Module) -> nn.Module:
    """Draw every parameter and running statistic, so that the output depends on each of them.

    Weights keep the size of a signal (He et al., Delving Deep into Rectifiers, 2015, sec. 2.2):
    larger ones make networks with gates chaotic, so that rounding alone would differ.
    Scales are drawn around 1, shifts around 0: with a shift of 0 a removed channel stays 0
    behind a norm, and a layer scale of 1e-6 hides a whole branch.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1 and name == 'weight':
                    parameter.normal_(0, math.sqrt(2 / parameter[0].numel()))
                elif 'bias' in name:
                    parameter.normal_(0, 0.3)
                else:
                    parameter.uniform_(0.5, 1.5)
            for name, buffer in module.named_buffers(recurse=False):
                if name == 'running_mean':
                    buffer.normal_(0, 0.3)
                elif name == 'running_var':
                    buffer.uniform_(0.5, 1.5)
    return model


def images(
    model: nn.Module, size: int | None = None, count: int = 2, seed: int = 0
) -> torch.Tensor:
    """A batch (count, 3, size, size) that ``model`` accepts, in the type of its parameters.

    Args:
        model: A network that takes images.
        size: Height and width; the first of ``SIZES`` that the network accepts if None.
        count: How many images.
        seed: Of the images.

    Raises:
        InputError: The network accepts none of the sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    failure: Exception | None = None
    for side in SIZES if size is None else (size,):
        batch = torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)
        batch = batch.to(next(model.parameters()).dtype)
        try:
            with torch.no_grad():
                model(batch)
        except Exception as error:  # whatever a network raises about a size that it cannot take
            failure = error
        else:
            return batch
    tried = SIZES if size is None else size
    raise InputError(
        f'{type(model).__name__} cannot be run on images of size {tried}: '
        f'{type(failure).__name__}: {failure}'
    ) from failure
