"""What tools/prune.py does."""

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmprune.building import check_options
from mmprune.commands.metrics import metrics_of
from mmprune.commands.prune_options import PruneOptions, prunable_config
from mmprune.commands.tables import metrics_table, widths_table
from mmprune.config import load_config
from mmprune.errors import InputError, in_words
from mmprune.models.algorithm import build_algorithm, let_importance_see, load_network
from mmprune.pruners import ImportancePruner, StructurePruner
from mmprune.report.tables import show
from mmprune.schema import checked
from mmprune.training.compensation import compensation_of, recalibrate_unless
from mmprune.training.deployed_files import DeployedFiles, check_place, write_deployed


def prune(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    onnx: bool = False,
    cfg_options: dict[str, Any] | None = None,
    onnx_batch: int | None = None,
    options: PruneOptions | None = None,
    measure: bool = True,
) -> DeployedFiles:
    """Prune a trained network in one step, and write what is left as a plain network.

    An importance that looks at data sees training images first. The pruned network gets norm
    statistics of its own (the model's ``recalibration``) and is verified against the full one
    with the same channels; all files appear at once at the end. Printed are the widths of all
    groups before and after, costs, and the metrics of the config's evaluator.

    Args:
        config: A config of any network, or one with an AutoSlim model whose pruner is an
            ``ImportancePruner``. Its ``prune_cfg=dict(collect=dict(num_batches=...,
            batch_size=..., seed=...))`` says which training images an importance sees: 8 batches
            if left out. With
            ``prune_cfg=dict(plans=...)`` plans are carried out instead, by a pruner of any
            type: a file that ``pruner.save_plans`` has written, or a list of arguments of
            ``pruner.plan``. With ``prune_cfg=dict(compensation=...)`` the small network gets
            weights that make up for what was removed, see ``compensation_of``, and its norms
            keep the full network's statistics.
        checkpoint: A checkpoint of the plain network, or of the supernet.
        out_dir: Where the files go; by default ``pruned`` next to the checkpoint.
        onnx: Write ``deployed.onnx`` too, checked by onnxruntime.
        cfg_options: Values to set in the config, by dotted key.
        onnx_batch: The only batch size of ``deployed.onnx``, which is written then; any if None.
        options: What to prune to and by what, for a config that does not say it, or says it
            otherwise.
        measure: Whether the metrics are measured, if the config has an evaluator.

    Returns:
        The files.

    Raises:
        InputError: The config has no such pruner, the checkpoint does not fit, the pruner's
            budget cannot be met, or a plan cannot be carried out.
        VerificationError: The small network computes something else.
    """
    options = options or PruneOptions()
    cfg = prunable_config(load_config(config, cfg_options), options)
    folder = Path(out_dir or Path(checkpoint).parent / 'pruned')
    check_place(folder, cfg, checkpoint, onnx or onnx_batch is not None)
    with in_words(options.own_words):
        algorithm = build_algorithm(cfg, checkpoint)
    algorithm.pruner.set_max_channel()
    before = metrics_of(algorithm, cfg) if measure else {}
    plans = cfg.get('prune_cfg', {}).get('plans')
    if plans is not None:
        carry_out(algorithm.pruner, plans, str(cfg.filename))
    else:
        pruner_of_importance(algorithm.pruner, cfg).prune()
    default = 'LeastSquares' if options.compensate else None
    change = compensation_of(algorithm, cfg, default)
    recalibrate_unless(change, algorithm, cfg)
    widths = widths_table(algorithm.pruner)
    files = write_deployed(algorithm, cfg, folder, str(cfg.filename), onnx, onnx_batch, change)
    show(widths)
    if before:
        after = metrics_of(load_network(files.config, files.checkpoint), cfg)
        show(metrics_table(before, after))
    return files


def carry_out(pruner: StructurePruner, plans: str | Sequence[Mapping[str, Any]], name: str) -> None:
    """Carry out the plans of a config on the full network, all or none of them.

    Args:
        pruner: Prepared.
        plans: A file of recorded plans, or dicts with the arguments of ``pruner.plan``.
        name: The config's, for messages.

    Raises:
        InputError: One of them does not fit the network, or all together cannot be carried out.
    """
    if isinstance(plans, str):
        pruner.replay_plans(plans)
        return
    pruner.set_max_channel()
    made = []
    for number, arguments in enumerate(plans):
        where = f'{name}: prune_cfg.plans[{number}]'
        check_options(pruner.plan, checked(dict[str, Any], arguments, where), where)
        try:
            made.append(pruner.plan(**arguments))
        except InputError as error:
            raise InputError(f'{where}: {error}') from error
    if not made:
        raise InputError(f'{name}: prune_cfg.plans is empty, so that there is nothing to remove')
    plan = reduce(add, made)
    if plan.problem:
        raise InputError(f'{name}: prune_cfg.plans: {plan.problem}')
    print_log(f'{name}:\n{plan}', logger='current')
    plan.execute()


def pruner_of_importance(pruner: StructurePruner, cfg: Config) -> ImportancePruner:
    """The pruner, whose importance has seen what it has to see.

    Raises:
        InputError: It is none by importance.
    """
    if not isinstance(pruner, ImportancePruner):
        raise InputError(
            f'{cfg.filename}: pruning needs model.pruner=dict(type="ImportancePruner", ...), not a '
            f'{type(pruner).__name__}, or plans to carry out, prune_cfg=dict(plans=...)'
        )
    let_importance_see(pruner, cfg)
    return pruner
