"""What tools/deploy_subnet.py does."""

import os
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmprune.commands.export_subnet import set_from_file
from mmprune.commands.picked_subnet import full_network, pick_subnet, show_times
from mmprune.commands.prune_options import searchable_config
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm
from mmprune.training.compensation import compensation_of, recalibrate_unless
from mmprune.training.deployed_files import (
    DeployedFiles,
    VerificationError,
    check_place,
    write_deployed,
)

__all__ = ['DeployedFiles', 'VerificationError', 'deploy_subnet']


def deploy_subnet(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    channel_cfg: str | os.PathLike[str] | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    onnx: bool = False,
    cfg_options: dict[str, Any] | None = None,
    onnx_batch: int | None = None,
    compensate: bool = False,
    study: str | os.PathLike[str] | None = None,
    pick: str = 'knee',
    study_name: str | None = None,
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
            one of theirs, or its number in the list, from 0. None: see ``study``.
        out_dir: Where the files go; by default ``deployed_<channel config>``, or
            ``deployed_<pick>``, next to the checkpoint. Files of an earlier deployment are
            replaced.
        onnx: Write ``deployed.onnx`` too, checked by onnxruntime.
        cfg_options: Values to set in the config, by dotted key.
        onnx_batch: The only batch size of ``deployed.onnx``, which is written then; any if None.
        compensate: Give the plain network, once it is verified, weights that make up for what was
            removed, from training images without labels: by the config's
            ``prune_cfg.compensation``, or least squares. Norms keep the supernet's statistics.
        study: Take the subnet from a search: its work directory, or its storage. It is deployed as
            it was judged, compensated where ``search_cfg`` says so, and its times are printed.
        pick: Which of its candidates: ``'knee'``, ``'best'``, ``'best-under:macs=0.5'``, or a
            number.
        study_name: Of the study, in a storage that has several.

    Returns:
        The files.

    Raises:
        InputError: If the checkpoint or the channel config is broken or does not fit, there is no
            such candidate, or not one of ``channel_cfg`` and ``study``.
        VerificationError: If the plain network, or its ONNX file, computes something else.
    """
    cfg = searchable_config(load_config(config, cfg_options))
    if (channel_cfg is None) == (study is None):
        raise InputError('give the channel config of a subnet, or the study that has it')
    name = re.sub(r'[^\w.=]+', '_', pick) if channel_cfg is None else Path(channel_cfg).stem
    folder = Path(out_dir or Path(checkpoint).parent / f'deployed_{name}')
    check_place(folder, cfg, checkpoint, onnx or onnx_batch is not None, channel_cfg)
    algorithm = build_algorithm(cfg, checkpoint, jointly=True)
    method = None
    if study is not None:
        full = full_network(algorithm)
        number = pick_subnet(algorithm, cfg, study, pick, study_name).index
        method = (cfg.get('search_cfg') or {}).get('compensation')
        source = f'candidate {number} of {Path(study).name}'
    else:
        assert channel_cfg is not None
        set_from_file(algorithm, channel_cfg)
        source = str(channel_cfg)
    change = (
        compensation_of(algorithm, cfg, 'LeastSquares', method) if compensate or method else None
    )
    recalibrate_unless(change, algorithm, cfg)
    files = write_deployed(algorithm, cfg, folder, source, onnx, onnx_batch, change)
    if study is not None:
        show_times(full, algorithm, files.onnx is not None)
    return files
