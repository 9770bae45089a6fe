"""What tools/prune.py does."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmprune.config import load_config
from mmprune.engine.algorithm import build_algorithm, calibration_batches
from mmprune.engine.deployed_files import DeployedFiles, write_deployed
from mmprune.engine.pruning_data import training_loss
from mmprune.errors import InputError
from mmprune.models import Recalibration
from mmprune.pruners import ImportancePruner


def prune(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    onnx: bool = False,
    cfg_options: dict[str, Any] | None = None,
) -> DeployedFiles:
    """Prune a trained network in one step, and write what is left as a plain network.

    An importance that looks at data sees training images first. The pruned network gets norm
    statistics of its own (the model's ``recalibration``) and is verified against the full one
    with the same channels; all files appear at once at the end.

    Args:
        config: A config with an AutoSlim model whose pruner is an ``ImportancePruner``; its
            ``prune_cfg=dict(collect=dict(num_batches=..., batch_size=..., seed=...))`` says which
            training images an importance sees: 8 batches if left out.
        checkpoint: A checkpoint of the plain network, or of the supernet.
        out_dir: Where the files go; by default ``pruned`` next to the checkpoint.
        onnx: Write ``deployed.onnx`` too, checked by onnxruntime.
        cfg_options: Values to set in the config, by dotted key.

    Returns:
        The files.

    Raises:
        InputError: The config has no such pruner, the checkpoint does not fit, or the pruner's
            budget cannot be met.
        VerificationError: The small network computes something else.
    """
    cfg = load_config(config, cfg_options)
    algorithm = build_algorithm(cfg, checkpoint)
    pruner = algorithm.pruner
    if not isinstance(pruner, ImportancePruner):
        raise InputError(
            f'{cfg.filename}: pruning needs model.pruner=dict(type="ImportancePruner", ...), not a '
            f'{type(pruner).__name__}'
        )
    if pruner.needs_data:
        images = Recalibration(**{'num_batches': 8, **cfg.get('prune_cfg', {}).get('collect', {})})
        seen = pruner.collect(calibration_batches(cfg, images), training_loss)
        print_log(f'{type(pruner.importance).__name__} has seen {seen} batches', logger='current')
    pruner.prune()
    algorithm.recalibrate(calibration_batches(cfg, algorithm.recalibration))
    folder = Path(out_dir or Path(checkpoint).parent / 'pruned')
    return write_deployed(algorithm, cfg, folder, str(cfg.filename), onnx)
