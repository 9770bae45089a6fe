"""What tools/export_subnet.py does."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmprune.config import files_of, load_config
from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.fileio import check_outputs
from mmprune.formats.mmrazor_files import VERSIONS
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_algorithm, full_and_set_cost
from mmprune.report.tables import before_and_after_table, show

MMRAZOR_VERSIONS = VERSIONS
"""Whose files can be written."""


def export_subnet(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    subnet: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    cfg_options: dict[str, Any] | None = None,
    mmrazor: str | None = None,
) -> Path:
    """Write the channel config of a subnet of a supernet.

    Args:
        config: A config with an AutoSlim model.
        checkpoint: The supernet's checkpoint.
        subnet: ``'max'`` or ``'min'``, the widest or the narrowest; or a channel
            config file, which is checked and written anew in mmprune's format; by
            default the subnet whose masks are in the checkpoint.
        out: The file to write, YAML or JSON by its suffix; by default
            ``subnet[_max|_min|_<file>].yaml`` next to the checkpoint.
        cfg_options: Values to set in the config, by dotted key.
        mmrazor: Write a file of MMRazor instead: ``'0.x'``, a channel config, or ``'1.x'``, a
            unit file.

    Returns:
        The file that was written.

    Raises:
        InputError: If the checkpoint or the channel config is broken or does not
            fit the network, or MMRazor's format cannot say it. Nothing is written then.
    """
    cfg = load_config(config, cfg_options)
    name = 'subnet' if subnet is None else f'subnet_{Path(subnet).stem}'
    path = Path(checkpoint).parent / f'{name}.yaml' if out is None else Path(out)
    check_outputs([path], inputs=files_of(cfg, checkpoint, subnet))
    algorithm = build_algorithm(cfg, checkpoint)
    select_subnet(algorithm, subnet)
    if mmrazor is None:
        save_channel_cfg(algorithm.pruner.export_subnet(), path)
    else:
        algorithm.pruner.save_mmrazor(path, mmrazor)
    full, kept = full_and_set_cost(algorithm)
    rows = {'MACs': (full['macs'], kept['macs']), 'parameters': (full['params'], kept['params'])}
    show(before_and_after_table(str(path), rows))
    return path


def select_subnet(algorithm: AutoSlim, subnet: str | os.PathLike[str] | None) -> None:
    """Set the subnet that a command line names."""
    if subnet == 'max':
        algorithm.pruner.set_max_channel()
    elif subnet == 'min':
        algorithm.pruner.set_min_channel()
    elif subnet is not None:
        set_from_file(algorithm, subnet)


def set_from_file(algorithm: AutoSlim, channel_cfg: str | os.PathLike[str]) -> None:
    """Set the subnet of a channel config file, or by its number, of those retrained jointly.

    Raises:
        InputError: If the file is broken, or does not fit the network; names the file.
    """
    if algorithm.subnets and str(channel_cfg).isdecimal():
        algorithm.switch_subnet(int(str(channel_cfg)))
    else:
        algorithm.select_subnet(load_channel_cfg(Path(channel_cfg)))
