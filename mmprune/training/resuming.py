"""What lets a training that was killed go on as if nothing had happened."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.dist import get_rank
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, find_latest_checkpoint
from torch.utils.data import DataLoader, IterableDataset

from mmprune.checkpoint import read_checkpoint
from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import atomic_path
from mmprune.randomness import draw_by
from mmprune.registry import HOOKS
from mmprune.schema import Metric, Range, Whole
from mmprune.training.saved_state import (
    OPTIMIZER_KEY,
    SETTINGS_KEY,
    check_schedulers,
    check_tensors,
    saved_by_hook,
    schedules_in,
    settings_of,
)

GRADIENTS_KEY = 'mmprune_gradients'
"""Where a checkpoint holds gradients that wait for the other batches of their step."""
DONE_KEY = 'mmprune_batches_done'
"""Where a checkpoint says how many batches of its epoch are done."""
PATIENCE_KEY = 'mmprune_patience'
"""Where a checkpoint holds what each ``EarlyStoppingHook`` has counted."""
_NEEDED = ('meta', 'optimizer', 'message_hub')


@dataclass
class _Patience:
    wait_count: Whole
    best_score: Metric


@HOOKS.register_module()
class ExactResume(Hook):
    """Lets a resumed training end like one that ran through, and loses no checkpoint.

    What an iteration draws at random (widths, dropout, mixing) depends on the seed and on its
    number alone; what a batch draws (which images, their transforms, in whichever worker), on the
    seed and on the number of the batch. An epoch in whose middle a checkpoint was written goes on
    there. Gradients that wait for more batches are kept in the checkpoint, and so is the patience
    of ``EarlyStoppingHook``; a validation that followed a checkpoint is made once more.

    Checkpoints are written under a temporary name and renamed, and an old one is removed only when
    the new one is there.

    ``tools/train.py`` uses it always. With another script, put
    ``custom_hooks=[dict(type='mmprune.ExactResume')]`` and ``randomness=dict(seed=0)`` into the
    config.
    """

    # Before whatever draws, and before CheckpointHook.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.batches: NumberedBatches | None = None
        self._gradients: dict[str, torch.Tensor] = {}
        self._done = 0

    def before_run(self, runner: Runner) -> None:
        """Let mmengine write files as a whole."""
        register_backend('local', AtomicBackend, force=True, prefixes='')
        runner.register_hook(_DueValidation(), 'LOWEST')

    def before_train(self, runner: Runner) -> None:
        """Number the batches; give back the gradients that wait."""
        self.batches = number_batches(runner.train_dataloader, runner.seed)
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        if iterator is not None:  # began before they were numbered
            runner.train_loop.dataloader_iterator = type(iterator)(runner.train_dataloader)
        for name, parameter in runner.model.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Go on where the epoch was left."""
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not isinstance(hook.file_backend, _Patient):
                hook.file_backend = _Patient(hook.file_backend)
        self._remove_old(runner)
        self._draw(runner, 'epoch')
        if self.batches is not None and isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.batches.skip = self._done
            self.batches.number = runner.iter - self._done

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw by this iteration's number from here on."""
        self._remove_old(runner)
        self._draw(runner, 'iteration')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count."""
        self._done += 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin to count anew."""
        self._done = 0

    def after_train(self, runner: Runner) -> None:
        """Remove what the last checkpoints have replaced."""
        self._remove_old(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep how far the epoch is, and gradients that wait for other batches of their step."""
        checkpoint[DONE_KEY] = self._done
        checkpoint[PATIENCE_KEY] = [
            {name: getattr(hook, name) for name in _Patience.__annotations__}
            for hook in _early_stopping(runner)
        ]
        checkpoint[SETTINGS_KEY] = settings_of(runner.cfg)
        for state in schedules_in(checkpoint.get('param_schedulers')):
            # OneCycleLR keeps a function, which would be code in the checkpoint; it has it anyway.
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]
        if hasattr(runner.optim_wrapper, 'optimizer'):  # not several by name
            checkpoint[OPTIMIZER_KEY] = type(runner.optim_wrapper.optimizer).__name__
        if getattr(runner.optim_wrapper, '_accumulative_counts', 1) > 1:
            checkpoint[GRADIENTS_KEY] = {
                name: parameter.grad.cpu()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take all of it, if the training goes on."""
        if not runner._resume:
            return
        path = runner._load_from
        check_schedulers(runner.param_schedulers, checkpoint.get('param_schedulers'), path)
        so_far = Annotated[int, Range(0, checkpoint['meta']['iter'])]
        self._done = saved_by_hook(checkpoint, DONE_KEY, so_far, path) or 0
        counted = saved_by_hook(checkpoint, PATIENCE_KEY, list[_Patience], path) or ()
        for hook, patience in zip(_early_stopping(runner), counted, strict=False):
            vars(hook).update(vars(patience))
        found = saved_by_hook(checkpoint, GRADIENTS_KEY, dict[str, torch.Tensor], path) or {}
        shapes = {name: value.shape for name, value in runner.model.named_parameters()}
        # They may be infinite: a gradient scaler leaves out the step.
        check_tensors(found, shapes, f'{path}: {GRADIENTS_KEY}', any_numbers=True)
        self._gradients = found

    def _draw(self, runner: Runner, what: str) -> None:
        device = next(runner.model.parameters()).device
        draw_by(what, runner.seed, runner.iter, device=device)

    def _remove_old(self, runner: Runner) -> None:
        for hook in runner.hooks:
            backend = getattr(hook, 'file_backend', None)
            if isinstance(backend, _Patient) and backend.leaving:
                backend.remove_all_but(
                    {hook.last_ckpt, getattr(hook, 'best_ckpt_path', None)}
                    | set(getattr(hook, 'best_ckpt_path_dict', {}).values())
                )


class _DueValidation(Hook):
    """Makes the validation that followed the checkpoint which a training goes on from."""

    def before_train(self, runner: Runner) -> None:
        """Validate, where all other hooks are ready for it."""
        loop: Any = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if not by_epoch and not isinstance(loop, IterBasedTrainLoop):
            return
        now, last = (loop._epoch, loop._max_epochs) if by_epoch else (loop._iter, loop._max_iters)
        within = by_epoch and loop._iter % len(loop.dataloader)
        if not runner._resume or runner.val_loop is None or within or now < max(loop.val_begin, 1):
            return
        loop._decide_current_val_interval()
        if now % loop.val_interval == 0 or now == last:
            runner.val_loop.run()


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


# -- what a batch draws --------------------------------------------------------------------


class _Batch(list[Any]):
    """The indices of a batch, and which batch of the training it is."""

    number: int


class NumberedBatches:
    """The batches of a batch sampler, counted over the training; each is drawn by its number.

    Args:
        batches: The batch sampler; its other attributes are found here too.
        seed: Of the training.

    Attributes:
        number: Of the next batch.
        skip: How many batches the next pass leaves out.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches, self.seed = batches, seed
        self.number = self.skip = 0

    def __iter__(self) -> Iterator[_Batch]:
        left_out, self.skip = self.skip, 0
        batches = iter(self.batches)
        while True:
            draw_by('order', self.seed, self.number)
            indices = next(batches, None)
            if indices is None:
                return
            batch = _Batch(indices)
            batch.number = self.number
            self.number += 1
            if left_out:
                left_out -= 1
            else:
                yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['batches'], name)


class _Items:
    """Reads a batch's images, drawing by the batch's number; stands in as ``__getitems__``."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank
        self.own = getattr(dataset, '__getitems__', None)

    def __call__(self, indices: list[Any]) -> list[Any]:
        if isinstance(indices, _Batch):
            draw_by('batch', self.seed, self.rank, indices.number)
        if self.own is not None:
            return self.own(indices)
        return [self.dataset[index] for index in indices]


def number_batches(loader: Any, seed: int) -> NumberedBatches | None:
    """Let a data loader draw each batch by its number; its workers begin anew.

    Args:
        loader: Reads by indices; of others, None is returned.
        seed: Of the training.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    own = loader.batch_sampler
    if own is None or not hasattr(loader.dataset, '__dict__'):
        return None
    if isinstance(own, NumberedBatches):
        own = own.batches
    elif loader.dataset.__dict__.get('__getitems__') is None:
        # torch reads a batch by this method where there is one.
        vars(loader.dataset)['__getitems__'] = _Items(loader.dataset, seed, get_rank())
    numbered = NumberedBatches(own, seed)
    vars(loader).update(batch_sampler=numbered, _iterator=None)  # torch refuses to set them
    sampler: Any = getattr(own, 'sampler', None)
    if hasattr(sampler, '_indices_of_rank'):  # mmengine's InfiniteSampler, read ahead already
        sampler.indices = sampler._indices_of_rank()
    return numbered


# -- checkpoints ---------------------------------------------------------------------------


class AtomicBackend(LocalBackend):
    """Local files of mmengine's, written under a temporary name and renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        with atomic_path(filepath) as unfinished:
            unfinished.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)


class _Patient:
    """A file backend that removes files only when it is told to: mmengine does before it saves."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.leaving: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['backend'], name)

    def remove(self, path: Any) -> None:
        """Remove a file, later."""
        self.leaving.append((self.backend.remove, path))

    def rmtree(self, path: Any) -> None:
        """Remove a folder, later."""
        self.leaving.append((self.backend.rmtree, path))

    def remove_all_but(self, written: set[Any]) -> None:
        """Remove what was to go; not what was written anew since."""
        for remove, path in self.leaving:
            if path not in written and self.backend.exists(path):
                remove(path)
        self.leaving.clear()


def newest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint to go on from, also if its folder was moved since; None without any.

    It is the one that mmengine names there, or, where that is not whole, the newest that is.

    Raises:
        InputError: There are some, and none is whole.
    """
    named: str | None = None
    given: list[Path] = []
    with suppress(OSError, ValueError):  # a crash may have left anything there
        named = find_latest_checkpoint(work_dir)
        places = [Path(named), Path(work_dir) / Path(named).name] if named else []
        given = [file for file in places if file.is_file()]
    saved = [*Path(work_dir).glob('epoch_*.pth'), *Path(work_dir).glob('iter_*.pth')]
    others = sorted(saved, key=lambda file: -file.stat().st_mtime_ns)
    problems: list[InputError] = []
    for path in dict.fromkeys(given[:1] + others):
        try:
            check_resumable(read_checkpoint(path), path)
        except InputError as error:
            problems.append(error)
            continue
        if path not in given:
            print_log(
                f'{work_dir}/last_checkpoint names no whole checkpoint: going on from {path}',
                'current',
                logging.WARNING,
            )
        return str(path)
    if problems:
        raise problems[0]
    if named:
        raise MissingFileError(
            f'{work_dir}/last_checkpoint: names {named}, which does not exist. '
            'Give the checkpoint itself: --resume FILE.'
        )
    return None


def check_resumable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise InputError if a checkpoint is not one that training can go on from."""
    missing = [key for key in _NEEDED if key not in checkpoint]
    if missing:
        raise InputError(
            f'{path}: training cannot go on from it, because it has no {", ".join(missing)}. '
            f'To start a new training from its weights: --cfg-options load_from={path}'
        )
