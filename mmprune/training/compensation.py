"""Compensation of a config's network, with its training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from mmengine.config import Config
from torch import nn

from mmprune.building import check_options
from mmprune.compensation import CompensationReport, built_method
from mmprune.errors import InputError
from mmprune.models import AutoSlim, Recalibration
from mmprune.models.algorithm import calibration_batches
from mmprune.models.training_data import training_data

IMAGES = dict(num_batches=4, batch_size=64)
"""What a compensation looks at if the config does not say."""
Change = Callable[[nn.Module], CompensationReport]


def compensation_of(
    algorithm: AutoSlim,
    cfg: Config,
    default: str | None = None,
    method: str | Mapping[str, Any] | None = None,
) -> Change | None:
    """What is to be done to the plain network of the subnet that is set.

    Args:
        algorithm: The supernet, its norms with the full network's statistics.
        cfg: Its ``prune_cfg=dict(compensation=...)`` is the name or config of a method, with
            ``images=dict(num_batches=..., batch_size=..., seed=...)`` if other training
            images are wanted than 4 batches of 64.
        default: The method where the config says none.
        method: The method, whatever the config says.

    Returns:
        A function that changes a network in place; None if nothing is wanted.

    Raises:
        InputError: There is no such method, or the config has no training images.
    """
    config = method or cfg.get('prune_cfg', {}).get('compensation', default)
    if not config:
        return None
    if not isinstance(config, str | Mapping):
        raise InputError(
            f"{cfg.filename}: prune_cfg.compensation must be a method's name, such as "
            f"'LeastSquares', or a config of it, not {config!r}"
        )
    options: dict[str, Any] = dict(type=config) if isinstance(config, str) else dict(config)
    options.setdefault('type', 'LeastSquares')
    given = dict(options.pop('images', {}))
    check_options(Recalibration, given, f'{cfg.filename}: prune_cfg.compensation.images')
    images = Recalibration(**{**IMAGES, **given})
    if images.num_batches < 1:
        raise InputError(
            f'{cfg.filename}: prune_cfg.compensation.images.num_batches must be 1 or more, not '
            f'{images.num_batches}'
        )
    built = built_method(options)
    batches = calibration_batches(cfg, images)

    @cache  # a search changes many networks; the model is on its device when it does
    def inputs() -> list[Any]:
        return [training_data(algorithm.data_preprocessor, b)['inputs'] for b in batches]

    def change(network: nn.Module) -> CompensationReport:
        forward = algorithm.roads[0].run
        return algorithm.pruner.compensate(network, inputs(), built, forward=forward)

    return change


def recalibrate_unless(change: Change | None, algorithm: AutoSlim, cfg: Config) -> None:
    """Give the subnet norm statistics of its own, unless a compensation is to keep the full ones.

    Least squares fits what the norms were trained on; recalibrating them first spoils it.
    """
    if change is None:
        algorithm.recalibrate(calibration_batches(cfg, algorithm.recalibration))
    algorithm.architecture.eval()
