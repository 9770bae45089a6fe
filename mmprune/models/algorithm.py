"""From a config and a checkpoint to an algorithm that is ready to be worked with."""

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch.utils.data import DataLoader, Subset

from mmprune.checkpoint import check_fit, fill, make_mmengine_load_safely, read_checkpoint
from mmprune.config import enter_scope, load_config
from mmprune.errors import InputError
from mmprune.missing_data import data_named
from mmprune.models.autoslim import AutoSlim, Recalibration
from mmprune.models.deployed import check_belongs
from mmprune.models.training_data import collate_function, training_loss
from mmprune.pruners import StructurePruner
from mmprune.randomness import seeded
from mmprune.registry import DATASETS, MODELS

WRAPPED = 'architecture.'
"""How the names of a network's weights begin in the checkpoint of an algorithm."""


def build_algorithm(
    cfg: Config, checkpoint: str | os.PathLike[str], jointly: bool = False
) -> AutoSlim:
    """Build the supernet of a config and load its weights and masks.

    Args:
        cfg: Its ``model`` is an AutoSlim that is not retraining.
        checkpoint: A checkpoint of that supernet, or of the plain network that it was made from.
        jointly: Whether it may also retrain several given subnets jointly.

    Returns:
        The algorithm on the CPU, in eval mode, at the width that the checkpoint holds, or the
        full one.

    Raises:
        InputError: If the config has no supernet, or the checkpoint is none of it.
    """
    algorithm = build_model(cfg)
    check_is_supernet(algorithm, str(cfg.filename), jointly)
    load_supernet(algorithm, checkpoint)
    algorithm.architecture.eval()
    return algorithm


def load_supernet(algorithm: AutoSlim, checkpoint: str | os.PathLike[str]) -> None:
    """Load the weights of a supernet, masks included, or of the plain network at full width.

    Raises:
        InputError: They are another network's.
    """
    weights = read_checkpoint(checkpoint)['state_dict']
    if any(key.startswith(WRAPPED) for key in weights):
        fill(algorithm, weights, checkpoint)
    else:
        _load_plain(algorithm, weights, checkpoint)


def _load_plain(
    algorithm: AutoSlim, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]
) -> None:
    """Load a plain network's weights into a supernet, at full width.

    Raises:
        InputError: They are another network's.
    """
    network = algorithm.architecture
    masks = algorithm.pruner.supernet.masks.by_key()
    full = {key: torch.ones_like(mask) for key, mask in masks.items()}
    check_fit(network, {**full, **weights}, path)
    network.load_state_dict({**weights, **full}, strict=False)


def load_network(config: str | Path | Config, checkpoint: str | Path) -> BaseModel:
    """Build the model of a config with a checkpoint's weights, in eval mode.

    Args:
        config: Of a deployed network, or of any other.
        checkpoint: Fits the model exactly.
    """
    cfg = load_config(config)
    network = build_model(cfg)
    content = read_checkpoint(checkpoint)
    check_belongs(cfg, content, checkpoint)
    fill(network, content['state_dict'], checkpoint)
    return network.eval()


def build_model(cfg: Config) -> BaseModel:
    """Build the model of a config as a Runner does, data preprocessor included."""
    if not isinstance(cfg.get('model'), Mapping):
        raise InputError(f'{cfg.filename}: has no model: expected model=dict(type=..., ...)')
    model = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    make_mmengine_load_safely()  # a network may load a part of itself
    with enter_scope(cfg):
        return MODELS.build(model)


def check_is_supernet(model: Any, config: str, jointly: bool = False) -> None:
    """Raise InputError if ``model`` has no widths to choose from, or given ones only."""
    if not isinstance(model, AutoSlim):
        raise InputError(
            f'{config}: its model is a {type(model).__name__}, which has no subnets; wrap it as '
            "model=dict(type='mmprune.AutoSlim', architecture=<this model>, pruner=...)."
        )
    if not model.is_slimmable:
        raise InputError(
            f'{config}: its model has retraining=True, so it is one subnet already; '
            'use the config of the supernet.'
        )
    if model.subnets and not jointly:
        raise InputError(
            f'{config}: its model retrains {len(model.subnets)} given subnets jointly, each with '
            'norms of its own; use the config of the supernet, or tools/deploy_subnet.py.'
        )


def let_importance_see(pruner: StructurePruner, cfg: Config) -> None:
    """Show an importance that looks at data training images of a config: its ``prune_cfg.collect``.

    Raises:
        InputError: The config has none.
    """
    if pruner.needs_data:
        images = Recalibration(**{'num_batches': 8, **cfg.get('prune_cfg', {}).get('collect', {})})
        seen = pruner.collect(calibration_batches(cfg, images), training_loss)
        print_log(f'{type(pruner.importance).__name__} has seen {seen} batches', logger='current')


def calibration_batches(cfg: Config, recalibration: Recalibration) -> list[Any]:
    """Return the training batches for a subnet's norm statistics, the same at every call.

    The images are drawn from the dataset of ``train_dataloader``, without its
    sampler, and transformed by its pipeline under a fixed seed, so that the
    search, the tools and every process of a distributed run see the same ones.

    Args:
        cfg: The config with ``train_dataloader``.
        recalibration: How many batches, how large, and which.

    Returns:
        Batches as the dataloader collates them; none if ``num_batches`` is 0.

    Raises:
        InputError: If batches are wanted and the config has no ``train_dataloader``.
    """
    if recalibration.num_batches == 0:
        return []
    config = cfg.get('train_dataloader')
    if not config:
        raise InputError(
            f'{cfg.filename}: subnets get their batch-norm statistics from training images, but '
            'the config has no train_dataloader; add one, or turn this off by '
            'model.recalibration=dict(num_batches=0).'
        )
    batch_size = recalibration.batch_size or config['batch_size']
    with seeded(recalibration.seed), enter_scope(cfg), data_named(cfg):
        dataset = DATASETS.build(deepcopy(config['dataset']))
        order = torch.randperm(len(dataset))[: recalibration.num_batches * batch_size]
        collate = collate_function(config.get('collate_fn'))
        return list(DataLoader(Subset(dataset, order.tolist()), batch_size, collate_fn=collate))


def full_and_set_cost(algorithm: AutoSlim) -> tuple[dict[str, int], dict[str, int]]:
    """Return the costs of the full network and of the subnet that is set."""
    pruner = algorithm.pruner
    return pruner.cost(pruner.full_subnet()), pruner.cost()
