"""A deployed network, or one of given widths, built from a config."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmprune.deploy.channel_cfg import as_channel_cfg, digest_of
from mmprune.errors import InputError
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.registry import MODELS, PRUNERS

DIGEST_KEY = 'channel_cfg_digest'
"""Under which the meta data of a deployed checkpoint say which set of files it is of."""
_OTHER = (
    'belongs to another deployment than the config that names it ({}, found {}): the files were '
    'mixed, or one was killed between them. Deploy anew.'
)


def deployed_model(
    model: dict[str, Any],
    channel_cfg: str | Path | dict[str, Any],
    data_preprocessor: dict[str, Any] | None = None,
    digest: str | None = None,
    input_shape: Sequence[int] | None = None,
    demo_input: dict[str, Any] | None = None,
) -> nn.Module:
    """Build the plain, smaller network that a channel config describes.

    In a config: ``model=dict(type='mmprune.DeployedModel', model=<the original
    network>, channel_cfg=<file>)``. What comes back is the original's own
    class with fewer channels and its own names in the state dict; nothing is
    traced, and nothing of mmprune is in it.

    Weights that the original's config would load (``init_cfg`` of type
    Pretrained, ``pretrained``) have the full network's shapes and are left out:
    load the deployed checkpoint instead.

    Args:
        model: Config of the original network in MODELS.
        channel_cfg: The channel config: a file, or its contents.
        data_preprocessor: For a ``model`` that brings none of its own, as a
            Runner fills it in.
        digest: Of the channel config, and of the weights deployed with it, as deploying has written
            it; None takes any.
        input_shape: Of an input on which the original is traced to read a unit file, as in
            ``AutoSlim``; a small image will do.
        demo_input: See there.

    Raises:
        FileNotFoundError, ValueError: If the channel config cannot be read or
            does not fit the network; the message names the file and the layer.
    """
    network, pruner = _original(model, data_preprocessor)
    cfg = as_channel_cfg(channel_cfg)
    if digest is not None and digest_of(cfg) != digest.partition('-')[0]:
        raise InputError(f'{cfg.source}: {_OTHER.format(digest, digest_of(cfg))}')
    if cfg.is_unit_file:
        given = ConfiguredInput.of(network, demo_input, input_shape)
        pruner.prepare_from_supernet(network, given.roads(network))
    return pruner.deploy_subnet(network, cfg)


def check_belongs(cfg: Config, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse the weights of another deployment than the one that a config is of.

    Checkpoints of a training that started from deployed weights fit by their shapes alone.

    Raises:
        InputError: Names the checkpoint and both digests.
    """
    model, meta = cfg.get('model') or {}, checkpoint.get('meta')
    wanted = model.get('digest')
    found = meta.get(DIGEST_KEY) if isinstance(meta, Mapping) else None
    if wanted is not None and found is not None and wanted != found:
        raise InputError(f'{path}: {_OTHER.format(wanted, found)}')


MODELS.register_module(name='DeployedModel', module=deployed_model)


def channel_list_model(
    model: dict[str, Any],
    channels: Sequence[int],
    input_shape: Sequence[int],
    demo_input: dict[str, Any] | None = None,
    residual: str = 'union',
    seed: int = 0,
    data_preprocessor: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build the plain network that a list of widths describes.

    In a config: ``model=dict(type='mmprune.ChannelListModel', model=<the original network>,
    channels=[32, 64, ...], input_shape=(1, 3, 224, 224))``. The original is built and traced, which
    needs no weights of value; what comes back has its classes and the list's widths.

    Args:
        model: Config of the original network in MODELS.
        channels: See ``StructurePruner.channel_list_cfg``, as the next three.
        residual: ``'union'`` or ``'sample'``.
        seed: What shortcuts are sampled with.
        options: ``skip``, ``has_input`` and ``unused``.
        input_shape: Shape of an input to trace with; a small image will do.
        demo_input: As in ``AutoSlim``.
        data_preprocessor: For a ``model`` that brings none of its own.

    Raises:
        InputError: The list does not fit the network.
    """
    network, pruner = _original(model, data_preprocessor)
    roads = ConfiguredInput.of(network, demo_input, input_shape).roads(network)
    pruner.prepare_from_supernet(network, roads)
    cfg = pruner.channel_list_cfg(list(channels), residual, seed, **options)
    return pruner.deploy_subnet(network, cfg)


MODELS.register_module(name='ChannelListModel', module=channel_list_model)


def _original(
    model: dict[str, Any], data_preprocessor: dict[str, Any] | None
) -> tuple[nn.Module, Any]:
    """The network of a config with random weights, and a pruner, of which any will do."""
    config = without_pretrained(deepcopy(dict(model)))
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    pruner = PRUNERS.build(dict(_scope_='mmprune', type='RatioPruner', ratios=[1.0]))
    return MODELS.build(config), pruner


def without_pretrained(config: Any) -> Any:
    """Return ``config`` without the settings that load weights from a file."""
    if isinstance(config, dict):
        return type(config)(
            {
                key: without_pretrained(value)
                for key, value in config.items()
                if key != 'pretrained' and not (key == 'init_cfg' and _is_pretrained(value))
            }
        )
    if isinstance(config, list | tuple):
        return type(config)(
            without_pretrained(value) for value in config if not _is_pretrained(value)
        )
    return config


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'
