"""A network of given widths, built from a config by a flat list of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.models.deployed import without_pretrained
from mmprune.registry import MODELS, PRUNERS


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
    config = without_pretrained(dict(model))
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    network = MODELS.build(config)
    pruner = PRUNERS.build(dict(_scope_='mmprune', type='RatioPruner', ratios=[1.0]))
    roads = ConfiguredInput.of(network, demo_input, input_shape).roads(network)
    pruner.prepare_from_supernet(network, roads)
    cfg = pruner.channel_list_cfg(list(channels), residual, seed, **options)
    return pruner.deploy_subnet(network, cfg)


MODELS.register_module(name='ChannelListModel', module=channel_list_model)
