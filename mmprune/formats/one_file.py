"""A pruned network in one file: which channels are left, their weights, and what wrote it.

The file is a checkpoint too: ``state_dict`` is where mmengine and others look for weights. It is
written by :func:`torch.save`, and holds tensors and plain data only, so that it is read without
running anything.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mmprune.checkpoint import check_fit, read_checkpoint, write_checkpoint
from mmprune.dependencies import installed_versions
from mmprune.deploy import deploy
from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.deploy.entries import ChannelCfg
from mmprune.errors import InputError
from mmprune.schema import checked
from mmprune.version import __version__

KEY = 'mmprune'
"""Where in the checkpoint the rest is."""
VERSION = 1


@dataclass(frozen=True)
class _Header:
    """What stands beside the weights."""

    version: Literal[1]
    channel_cfg: dict[str, Any]
    network: str
    versions: dict[str, str]


@dataclass(frozen=True)
class OneFile:
    """What such a file holds.

    Attributes:
        channel_cfg: Which channels of the original network are left.
        weights: The state dict of the small network.
        network: The class of the original network.
        versions: Of mmprune, torch and Python when it was written, and of mmengine.
    """

    channel_cfg: ChannelCfg
    weights: Mapping[str, torch.Tensor]
    network: str
    versions: Mapping[str, str]

    def build(self, network: nn.Module) -> nn.Module:
        """The small network, made from the original one, which stays as it is.

        Raises:
            InputError: The file is of another network; names the layer and both numbers.
        """
        source, found = self.channel_cfg.source, type(network).__name__
        try:
            small = deploy(network, self.channel_cfg)
            check_fit(small, self.weights, source)
            small.load_state_dict(dict(self.weights))
        except (InputError, RuntimeError) as error:
            raise InputError(
                f'{error}\n{source} holds a pruned {self.network}, made by mmprune '
                f'{self.versions.get("mmprune", "?")}, and was given a {found}: give the network '
                'that was pruned, at its full width. If it was pruned twice, that is what the '
                'first file gives: load(second, load(first, network)).'
            ) from error
        return small


def write_one_file(
    path: str | os.PathLike[str],
    network: nn.Module,
    channel_cfg: Mapping[str, Any],
    original: str,
) -> None:
    """Write a pruned network, all or nothing.

    Args:
        path: The file; one that is there is replaced.
        network: The small network.
        channel_cfg: Which channels of the original it has.
        original: The class of the original network.

    Raises:
        InputError: The channel config is broken; nothing is written.
    """
    content = {
        'state_dict': network.state_dict(),
        'meta': {'mmprune_version': __version__},
        KEY: {
            'version': VERSION,
            'channel_cfg': dict(as_channel_cfg(channel_cfg)),
            'network': original,
            'versions': _versions(),
        },
    }
    write_checkpoint(content, path)


def read_one_file(path: str | os.PathLike[str]) -> OneFile:
    """Read what ``write_one_file`` has written, without running code from it.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is broken, cut off, of a later version or something else.
    """
    content = read_checkpoint(path)
    found = content.get(KEY)
    if not isinstance(found, Mapping):
        raise InputError(
            f'{path}: holds weights, but not which channels they are of. Give a file that '
            'mmprune.save has written; weights beside a channel config are put together by '
            'pruner.deploy_subnet(network, channel_cfg) and load_state_dict.'
        )
    if found.get('version', VERSION) != VERSION:
        raise InputError(
            f'{path}: is of version {found.get("version")} of this format, and this mmprune '
            f'({__version__}) reads version {VERSION}. Update mmprune.'
        )
    header = checked(_Header, found, str(path))
    channel_cfg = as_channel_cfg(header.channel_cfg, str(path))
    return OneFile(channel_cfg, content['state_dict'], header.network, header.versions)


def _versions() -> dict[str, str]:
    """What a reader may want to know when something does not fit."""
    found = {'mmprune': __version__, 'torch': str(torch.__version__)}
    found['python'] = platform.python_version()
    return found | installed_versions(('mmengine', 'mmengine-lite', 'onedl-mmengine'))
