"""What tools/deploy_subnet.py does."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmprune.commands.export_subnet import set_from_file
from mmprune.commands.prune_options import searchable_config
from mmprune.config import load_config
from mmprune.models.algorithm import build_algorithm
from mmprune.training.compensation import compensation_of, recalibrate_unless
from mmprune.training.deployed_files import DeployedFiles, VerificationError, write_deployed

__all__ = ['DeployedFiles', 'VerificationError', 'deploy_subnet']


def deploy_subnet(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    channel_cfg: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    onnx: bool = False,
    cfg_options: dict[str, Any] | None = None,
    onnx_batch: int | None = None,
    compensate: bool = False,
) -> DeployedFiles:
    """Write a subnet as a plain network, after proving that it computes the same.

    The subnet gets norm statistics of its own as in the search, over the same
    training images, so that it is deployed with the accuracy that the search
    has measured. Then it is verified against the supernet, written, and all
    files appear at once at the end: if anything fails, none does.

    Args:
        config: A config with an AutoSlim model, or with any that was searched.
        checkpoint: The supernet's checkpoint, or the plain network's.
        channel_cfg: The channel config of the subnet. Where the config retrains subnets jointly,
            one of theirs, or its number in the list, from 0.
        out_dir: Where the files go; by default ``deployed_<channel config>`` next
            to the checkpoint. Files of an earlier deployment are replaced.
        onnx: Write ``deployed.onnx`` too, checked by onnxruntime.
        cfg_options: Values to set in the config, by dotted key.
        onnx_batch: The only batch size of ``deployed.onnx``, which is written then; any if None.
        compensate: Give the plain network, once it is verified, weights that make up for what was
            removed, from training images without labels: by the config's
            ``prune_cfg.compensation``, or least squares. Norms keep the supernet's statistics.

    Returns:
        The files.

    Raises:
        InputError: If the checkpoint or the channel config is broken or does not fit.
        VerificationError: If the plain network, or its ONNX file, computes something else.
    """
    cfg = searchable_config(load_config(config, cfg_options))
    algorithm = build_algorithm(cfg, checkpoint, jointly=True)
    set_from_file(algorithm, channel_cfg)
    change = compensation_of(algorithm, cfg, 'LeastSquares') if compensate else None
    recalibrate_unless(change, algorithm, cfg)
    folder = Path(out_dir or Path(checkpoint).parent / f'deployed_{Path(channel_cfg).stem}')
    return write_deployed(algorithm, cfg, folder, str(channel_cfg), onnx, onnx_batch, change)
