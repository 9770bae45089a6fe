"""The networks of the zoo: model configs, built with numbers that prove something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmprune.dependencies import require
from mmprune.errors import InputError, nearest
from mmprune.models.algorithm import build_model
from mmprune.models.demo_inputs.poses import codec_size
from mmprune.trace.roads import roads_of

WEIGHTS = ('weight', 'in_proj_weight')
"""Names of the parameters that multiply a vector of channels, of those with several dims."""
SETTLED = 0.7
"""Share of the channels for which norm statistics are drawn: between half and all."""

SIZES = (64, 96, 224, 256, 299, 384, 512)
"""Image sizes to try: the smallest that a network accepts is the fastest proof."""


def config_folder() -> Path:
    """Where mmcls keeps its model configs."""
    return (
        Path(str(require('mmcls', 'the zoo').__file__)).parent
        / '.mim'
        / 'configs'
        / '_base_'
        / 'models'
    )


def resolve(name: str) -> str:
    """The config that a name means: a path below mmcls's ``_base_/models``, or the end of one.

    ``mmdet::retinanet/retinanet_r18_fpn_1x_coco.py`` is a config of another package.

    Raises:
        InputError: No config, or several, have this name.
    """
    if '::' in name:
        config_of_package(name)
        return name
    folder = config_folder()
    names = [str(p.relative_to(folder).with_suffix('')) for p in sorted(folder.rglob('*.py'))]
    if name in names:
        return name
    found = [other for other in names if other.rpartition('/')[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"'{name}' may be any of {found}: give its folder too")
    known = dict.fromkeys([*names, *(n.rpartition('/')[2] for n in names)])
    raise InputError(f"mmcls has no model config '{name}' in {folder}; {nearest(name, known)}")


def config_of_package(name: str) -> Config:
    """A config of an installed package, as ``_base_`` of a config names it.

    Raises:
        InputError: There is no such package, or it has no such config.
    """
    require(name.partition('::')[0], 'the zoo')
    try:
        return get_config(name)
    except FileNotFoundError as error:
        raise InputError(f'{name}: there is no such config: {error}') from error


def build(name: str, seed: int = 0) -> nn.Module:
    """A network in float64 and eval mode, all of its numbers drawn from ``seed``."""
    if '::' in name:
        return drawn(lambda: build_model(config_of_package(name)), seed)
    return build_config(Config.fromfile(config_folder() / f'{resolve(name)}.py').model, seed)


def build_config(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The same for any config of a classifier, as a dict."""
    models = require('mmcls.registry', 'the zoo').MODELS
    return drawn(lambda: models.build({'_scope_': 'mmcls', **config}), seed)


def drawn(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network that ``make`` builds, in float64 and eval mode, its numbers drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        # In float64 from the start: numbers of float32 would be drawn twice now and then.
        model = refreshed(randomise(in_type(model, torch.float64)))
        return settle(model, images(model, seed=seed))


def in_type(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``model`` itself, all that it computes with being of type ``dtype``.

    ``nn.Module.to`` leaves out tensors in plain attributes, and types that a module makes
    tensors of (the position encoding of EdgeNeXt has both). What was computed from weights for
    eval mode (the attention biases of LeViT) is computed anew.
    """
    model.to(dtype)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.dtype) and value.is_floating_point:
                setattr(module, name, dtype)
            elif isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(module, name, value.to(dtype))
    return refreshed(model)


def refreshed(model: nn.Module) -> nn.Module:
    """``model`` itself, in eval mode, what it keeps for that mode computed from its weights."""
    return model.train().eval()


def randomise(model: nn.Module) -> nn.Module:
    """Draw every parameter, so that the output depends on each of them.

    Weights keep the size of a signal (He et al., Delving Deep into Rectifiers, 2015, sec. 2.2):
    larger ones make networks with gates chaotic, so that rounding alone would differ.
    Scales are drawn around 1, shifts around 0: with a shift of 0 a removed channel stays 0
    behind a norm, and a layer scale of 1e-6 hides a whole branch.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1 and name in WEIGHTS:
                    parameter.normal_(0, math.sqrt(2 / parameter[0].numel()))
                elif 'bias' in name:
                    parameter.normal_(0, 0.3)
                else:
                    parameter.uniform_(0.5, 1.5)
    return model


def settle(model: nn.Module, batch: torch.Tensor) -> nn.Module:
    """Draw running statistics that suit what the batch norms of ``model`` see on ``batch``.

    Every channel gets its own, around the average of its layer, as in a network that was
    trained. Statistics that do not suit let the signal grow from block to block, and attention
    jumps with the last digit of a large number; or they let it fade, and the output is the same
    for all images. So that neither happens in the full network or in one of half its width,
    they are drawn for ``SETTLED`` of it: each norm passes on what so many channels would sum to.
    """

    def draw(norm: _BatchNorm, inputs: tuple[torch.Tensor, ...]) -> None:
        if norm.running_mean is not None and norm.running_var is not None:
            variance = inputs[0].transpose(0, 1).flatten(1).var(1).mean()
            norm.running_mean.normal_(0, 0.3).mul_(variance.sqrt())
            norm.running_var.uniform_(0.5, 1.5).mul_(variance)

    def narrow(norm: _BatchNorm, inputs: tuple[torch.Tensor, ...], output: Any) -> Any:
        return output * SETTLED**0.5

    with ExitStack() as stack, torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
            stack.enter_context(norm.register_forward_pre_hook(draw))
            stack.enter_context(norm.register_forward_hook(narrow))
        roads_of(model, batch)[0].run(model)
    return model


def images(
    model: nn.Module, size: int | None = None, count: int = 2, seed: int = 0
) -> torch.Tensor:
    """A batch (count, 3, height, width) that ``model`` accepts, in the type of its parameters.

    Args:
        model: A network that takes images.
        size: Height and width; those that a pose estimator is made for, or the first of ``SIZES``
            that the network accepts, if None.
        count: How many images.
        seed: Of the images.

    Raises:
        InputError: The network accepts none of the sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    failure: Exception | None = None
    own = codec_size(model)
    sizes = [(side, side) for side in (SIZES if size is None else (size,))]
    for shape in sizes if own is None else [own]:
        try:
            batch = _noise(count, shape, generator).to(next(model.parameters()).dtype)
            with torch.no_grad():
                roads_of(model, batch)[0].run(model)
        except Exception as error:  # whatever a network raises about a size that it cannot take
            failure = error
        else:
            return batch
    tried = SIZES if size is None else size
    raise InputError(
        f'{type(model).__name__} cannot be run on images of size {tried}: '
        f'{type(failure).__name__}: {failure}'
    ) from failure


def _noise(count: int, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Noise of every size, (count, 3, height, width) in float64.

    Images of pixels that know nothing of each other have the same averages, so that a network that
    averages over places would give nearly the same for each.
    """
    batch = torch.zeros(count, 3, *shape, dtype=torch.float64)
    for pieces in ((1, 1), (2, 2), (4, 4), (8, 8), shape):
        coarse = torch.randn(count, 3, *pieces, generator=generator, dtype=torch.float64)
        batch += nn.functional.interpolate(coarse, shape, mode='nearest')
    return batch / batch.std()
