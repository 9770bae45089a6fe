"""What tools/train.py and tools/test.py do: a config, an mmengine Runner, and clear errors."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import is_cuda_available, is_musa_available, is_npu_available
from mmengine.dist import is_distributed, is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmprune.checkpoint import check_fit, make_mmengine_load_safely, read_checkpoint
from mmprune.config import enter_scope, files_of, load_config, work_dir_of
from mmprune.datafiles import write_data
from mmprune.errors import InputError
from mmprune.fileio import check_outputs
from mmprune.lock import only_run_in
from mmprune.missing_data import data_named
from mmprune.models.deployed import check_belongs
from mmprune.training.iterative_pruning import follow_checkpoint
from mmprune.training.resuming import ExactResume, check_resumable, newest_checkpoint
from mmprune.training.saved_state import check_optimizer, check_saved, warn_of_changes
from mmprune.weights import check_weights
from mmprune.wrappers import without_wrapper

_AMP_TYPE = 'AmpOptimWrapper'
_CHECKPOINTS = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth')
"""What mmengine calls those that a training writes."""


def train(
    config: str | os.PathLike[str] | Config,
    work_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    amp: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
) -> Runner:
    """Train the model of a config.

    Args:
        config: A config file, or a config that was read already.
        work_dir: Where checkpoints and logs go; by default the config's
            ``work_dir``, or ``work_dirs/<config>``.
        resume: A checkpoint to go on from, or ``'auto'`` for the newest in the
            work directory, if there is one. By default training starts anew.
        amp: Train in mixed precision, on an accelerator.
        cfg_options: Values to set in the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.

    Returns:
        The runner, after training.

    Raises:
        InputError: If the config is none or cannot be trained, the checkpoint is none or does not
            fit the model, mixed precision is not to be had, or another run writes into the work
            directory. The message names the file.
    """
    cfg = load_config(config, cfg_options)
    _require(cfg, 'train', ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'))
    cfg.work_dir = absolute(work_dir_of(cfg, work_dir))
    if amp:
        _set_amp(cfg)
    elif _AMP_TYPE in str(cfg.optim_wrapper.get('type')) and not _has_accelerator():
        raise InputError(
            f'{cfg.filename}: optim_wrapper is an {_AMP_TYPE}, which needs an accelerator, and '
            'torch sees none here: leave out its options, and set optim_wrapper.type=OptimWrapper'
        )
    if resume is not None:
        cfg.load_from = newest_checkpoint(cfg.work_dir) if resume == 'auto' else str(resume)
        # Without a checkpoint, mmengine would look for one itself, and find none.
        cfg.resume = cfg.load_from is not None
    resumed = os.path.expanduser(str(cfg.load_from)) if cfg.get('resume') else None
    inputs = [file for file in files_of(cfg) if file != resumed]
    check_outputs(folders=[cfg.work_dir], inputs=inputs, patterns=_CHECKPOINTS)
    checkpoint = read_checkpoint(cfg.load_from) if cfg.get('load_from') else None
    check_belongs(cfg, checkpoint or {}, str(cfg.get('load_from')))
    if checkpoint is not None and cfg.get('resume'):
        check_resumable(checkpoint, cfg.load_from)
        check_saved(checkpoint, cfg.load_from)
        # Samplers and workers are built with it, before mmengine reads it.
        seed = cfg.get('randomness', {}).get('seed')
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': checkpoint['meta'].get('seed')}
    with alone_in(cfg.work_dir, 'a training', launcher):
        runner = build_runner(cfg, launcher)
        if checkpoint is not None:
            if cfg.get('resume'):
                follow_checkpoint(runner, checkpoint)
                check_fit(runner.model, checkpoint['state_dict'], cfg.load_from)
                check_optimizer(runner, checkpoint, cfg.load_from)
                warn_of_changes(runner, seed, checkpoint, cfg.load_from)
            else:
                _check_overlap(runner, checkpoint['state_dict'], cfg.load_from)
            del checkpoint
        elif resume == 'auto':
            runner.logger.info(f'No checkpoint to resume in {cfg.work_dir}: training starts anew.')
        if not any(isinstance(hook, ExactResume) for hook in runner.hooks):
            runner.register_hook(ExactResume())
        with enter_scope(cfg), data_named(cfg):
            runner.train()
    return runner


def evaluate(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    work_dir: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    tta: bool = False,
) -> dict[str, float]:
    """Measure a checkpoint on the test data of its config.

    Args:
        config: A config file, or a config that was read already.
        checkpoint: A checkpoint that fills the whole model.
        work_dir: Where the log goes; by default as in :func:`train`.
        out: A JSON file to write the metrics to.
        cfg_options: Values to set in the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        tta: Test each image in several forms, by the config's ``tta_model`` and ``tta_pipeline``.

    Returns:
        The metrics by name, such as ``{'accuracy/top1': 98.9}``.

    Raises:
        InputError: If the config is none or has nothing to test, or the
            checkpoint is none or leaves a part of the model without weights.
    """
    cfg = load_config(config, cfg_options)
    _require(cfg, 'test', ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'))
    if tta:
        _set_tta(cfg)
    cfg.work_dir = absolute(work_dir_of(cfg, work_dir))
    check_outputs([out], [cfg.work_dir], inputs=files_of(cfg, checkpoint))
    content = read_checkpoint(checkpoint)
    check_belongs(cfg, content, checkpoint)
    cfg.load_from, cfg.resume = str(checkpoint), False
    runner = build_runner(cfg, launcher)
    follow_checkpoint(runner, content)
    check_fit(runner.model, content['state_dict'], checkpoint)
    del content
    with enter_scope(cfg), data_named(cfg):
        metrics = {name: float(value) for name, value in runner.test().items()}
    if out is not None and is_main_process():
        write_data(metrics, out)
    return metrics


def build_runner(cfg: Config, launcher: str = 'none') -> Runner:
    """Build the runner of a config, which loads checkpoints safely.

    Args:
        cfg: The config; ``work_dir`` is set.
        launcher: ``'none'``, or what started this process and its siblings:
            ``'pytorch'`` (torchrun or torch.distributed.launch) or ``'slurm'``.

    Raises:
        InputError: If the launcher did not start this process, or the config's ``default_scope``
            cannot be entered.
    """
    make_mmengine_load_safely()
    cfg.launcher = launcher
    _check_launcher(launcher)
    if launcher == 'pytorch' and not _has_accelerator():
        _prepare_cpu_processes(cfg)
    with enter_scope(cfg), _own_file_kept(cfg) as own:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        vars(runner.cfg)['_filename'] = own
        return runner


@contextmanager
def _own_file_kept(cfg: Config) -> Iterator[str | None]:
    """Let mmengine write what it runs beside a config that lies in its work directory, not over it.

    Nor over another file of that name that is read, such as the config that it builds on.

    Yields:
        The config's file.
    """
    own = cfg.filename
    place = Path(cfg.work_dir, Path(own or '').name)
    if own and str(place.resolve()) in map(os.path.realpath, files_of(cfg)):
        vars(cfg)['_filename'] = str(place.with_name(f'{place.stem}_as_run{place.suffix}'))
    try:
        yield own
    finally:
        vars(cfg)['_filename'] = own


def alone_in(
    folder: str | os.PathLike[str], doing: str, launcher: str
) -> AbstractContextManager[None]:
    """Keep a folder for this run; the first of several processes does it for all of them.

    Raises:
        InputError: Another run writes there.
    """
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID'}.get(launcher, '')
    return only_run_in(folder, doing) if os.environ.get(rank, '0') == '0' else nullcontext()


def _check_launcher(launcher: str) -> None:
    """Refuse a launcher that has not started this process."""
    sets = {
        'pytorch': {'RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'},
        'slurm': {'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'},
    }
    missing = sets.get(launcher, set()) - os.environ.keys()
    if missing:
        raise InputError(
            f'--launcher {launcher}: {", ".join(sorted(missing))} not set in the environment. '
            'Start with `mim train mmprune CONFIG --launcher ... --gpus N`, torchrun or srun, or '
            'leave the option out to run in one process.'
        )
    if launcher == 'slurm' and not _has_accelerator():
        raise InputError(
            '--launcher slurm: mmengine gives each slurm task a GPU, and torch sees none here. '
            'On CPUs, run torchrun with --launcher pytorch inside of srun.'
        )


def _prepare_cpu_processes(cfg: Config) -> None:
    """Set what mmengine takes for granted to be CUDA's when there are several processes."""
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
    default = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    cfg.model_wrapper_cfg = {'device_ids': None, **cfg.get('model_wrapper_cfg', default)}


def _require(cfg: Config, purpose: str, keys: tuple[str, ...]) -> None:
    """Refuse a config that lacks a setting, before anything is built or written."""
    # An empty dict is a setting: test_cfg = dict() asks for the default loop.
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise InputError(
            f'{cfg.filename}: cannot {purpose}: the config has no {", ".join(missing)}.'
        )


def absolute(folder: Path) -> str:
    """A work directory that stays the same: a checkpoint's path is stored, to resume from."""
    return str(folder.expanduser().resolve())


def _set_amp(cfg: Config) -> None:
    if not _has_accelerator():
        raise InputError('--amp needs an accelerator, and torch sees none here. Leave it out.')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', _AMP_TYPE):
        raise InputError(
            f'{cfg.filename}: --amp replaces an OptimWrapper, but optim_wrapper.type is {kind}. '
            'Leave --amp out, or choose the precision in the config.'
        )
    cfg.optim_wrapper.type = _AMP_TYPE
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _set_tta(cfg: Config) -> None:
    """Let a test see each image in several forms."""
    _require(cfg, 'test with augmentation', ('tta_model', 'tta_pipeline'))
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
    hook = dict(type='PrepareTTAHook', tta_cfg=cfg.tta_model)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]


def _has_accelerator() -> bool:
    return bool(is_cuda_available() or is_npu_available() or is_musa_available())


def _check_overlap(runner: Runner, weights: dict[str, Any], path: str) -> None:
    """Refuse to start from weights of which the model takes none."""
    network = without_wrapper(runner.model)
    expected = network.state_dict()
    if not any(
        key in expected and value.shape == expected[key].shape for key, value in weights.items()
    ):
        check_fit(runner.model, weights, path)
    check_weights(network, path, weights)
