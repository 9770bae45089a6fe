"""Pruning in steps while a network trains, and going on with the small network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.runner import Runner

from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.errors import InputError
from mmprune.models.sandwich import shared_subnet
from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import HOOKS
from mmprune.schema import Whole
from mmprune.training.carry_over import (
    averaged_models,
    deploy_in_training,
    loss_scale_of,
    write_masks,
)
from mmprune.training.deployed_files import write_deployed_config
from mmprune.training.pruner_hook import PrunerHook, check_not_slimmable
from mmprune.training.saved_state import check_tensors, saved_by_hook
from mmprune.wrappers import without_wrapper

SCHEDULES: dict[str, Callable[[float], float]] = {
    'linear': lambda time: time,
    'cubic': lambda time: 1 - (1 - time) ** 3,
}
"""From the share of the time that has passed, 0 to 1, to the share of the way."""
CHANNEL_CFG_KEY = 'mmprune_channel_cfg'
"""Where a checkpoint of a model that was deployed in place says which channels it has."""
HEARD_KEY = 'mmprune_heard'
"""Where a checkpoint has what was heard since the last removal."""
_HEARD = tuple[dict[tuple[str, str, tuple[int, ...]], torch.Tensor], Whole]


@HOOKS.register_module()
class IterativePruning(PrunerHook):
    """Prunes the model while it trains, from the full width to the pruner's target.

    Nothing goes until ``begin``; at ``end`` the target is reached. In between, every
    ``interval``, the channels that matter least by then are removed, as many as the schedule
    says: of the ratio, or of the way from the full cost to the budget. With ``deploy`` the
    model then becomes the small, plain network, and training goes on: the optimizer holds only
    what is left, and momentum, averages (EMAHook) and weights are carried over. In the work
    directory are written ``channel_cfg.yaml`` and, with a config file, ``deployed.py``, which
    builds the small network for the checkpoints from then on.

    The cubic schedule is that of Zhu and Gupta, "To Prune, or Not to Prune: Exploring the Efficacy
    of Pruning for Model Compression", 2017, section 3: fast at first, slow at the end.

    Args:
        pruner: See ``PrunerHook``; an ``ImportancePruner``.
        input_shape: See ``PrunerHook``.
        begin: Epoch (or iteration) from which channels are removed; counted from 0.
        end: Epoch (or iteration) at whose begin the target is reached.
        interval: Epochs (or iterations) from step to step.
        by_epoch: Whether these are epochs.
        schedule: ``'cubic'`` or ``'linear'``.
        channels: How many channels go at every step, in the place of the schedule: the greedy
            way, to which every removal is a new look. The target is then reached when enough are
            gone, at ``end`` at the latest; the model becomes small at that step.
        regrow: Whether channels that were removed may come back at a later step.
        collect: See ``PrunerHook``.
        listen: Whether the importance, a ``GroupFisherImportance``, goes by what the training steps
            since the last removal computed, in the place of images of its own: as in its paper,
            at hardly any cost.
        deploy: Whether the model becomes the small network at ``end``.
        demo_input: See ``PrunerHook``.

    Raises:
        InputError: An option makes no sense.
    """

    writes = ('deployed.py', 'channel_cfg.yaml')

    def __init__(
        self,
        pruner: Mapping[str, Any] | StructurePruner | None = None,
        input_shape: Sequence[int] | None = None,
        begin: int = 0,
        end: int = 1,
        interval: int = 1,
        by_epoch: bool = True,
        schedule: str = 'cubic',
        regrow: bool = False,
        collect: Mapping[str, Any] | None = None,
        deploy: bool = True,
        listen: bool = False,
        demo_input: Mapping[str, Any] | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(pruner, input_shape, collect, demo_input)
        if not 0 <= begin <= end or interval < 1:
            raise InputError(
                'IterativePruning needs 0 <= begin <= end and interval >= 1, got '
                f'begin={begin}, end={end}, interval={interval}'
            )
        if schedule not in SCHEDULES:
            raise InputError(
                f'schedule must be one of {", ".join(map(repr, SCHEDULES))}, not {schedule!r}'
            )
        self.begin, self.end, self.interval = begin, end, interval
        if channels is not None and (channels < 1 or regrow):
            raise InputError(
                'IterativePruning: channels is the number that goes at every step, 1 or more, and '
                f'none comes back: found channels={channels!r}, regrow={regrow}'
            )
        self.by_epoch, self.channels = by_epoch, channels
        self.schedule = schedule
        self.regrow = regrow
        self.deploy = deploy
        self.listen = listen
        self._listening = ExitStack()
        self.channel_cfg: dict[str, Any] | None = None

    @property
    def is_deployed(self) -> bool:
        """Whether the model has become the small network."""
        return self.channel_cfg is not None

    def progress(self, now: int) -> float:
        """How far on the way to the target, 0 to 1, at an epoch or iteration."""
        if now >= self.end:
            return 1.0
        if now <= self.begin:
            return 0.0
        return SCHEDULES[self.schedule]((now - self.begin) / (self.end - self.begin))

    # -- when --------------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Prepare the model, unless it was deployed in the training that is resumed."""
        if not self.is_deployed:
            check_not_slimmable(self, runner)
            super().before_run(runner)
            if self.listen and not hasattr(self.target.importance, 'listening'):
                raise InputError(
                    f'IterativePruning: {type(self.target.importance).__name__} cannot listen to '
                    "training steps: leave listen out, or take dict(type='GroupFisherImportance')"
                )

    def before_train(self, runner: Runner) -> None:
        """Refuse a training that ends before the target is reached."""
        super().before_train(runner)
        last = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.end >= last and not self.is_deployed:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise InputError(
                f'IterativePruning: end={self.end}, but the {last} {unit} of training are counted '
                f'0 to {last - 1}, so that the target would never be reached'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Make a step if one is due."""
        if self.by_epoch:
            self._advance(runner, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Make a step if one is due; then listen to what training computes."""
        if not self.by_epoch:
            self._advance(runner, runner.iter)
        if self.listen and not self.is_deployed and self.progress(self._now(runner)) < 1:
            self._listening.enter_context(
                self.target.importance.listening(
                    self.pruner.supernet.model,
                    self.pruner.channel_groups,
                    loss_scale_of(runner.optim_wrapper),
                )
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take in what was heard."""
        self._listening.close()

    def after_train(self, runner: Runner) -> None:
        """Say that a training that something else has ended did not reach the target."""
        if self._now(runner) <= self.end and not self.is_deployed:
            runner.logger.warning(
                f'IterativePruning: training ended before end={self.end}, at which the target is '
                'reached: the model is not as small as it was to be'
            )

    def _now(self, runner: Runner) -> int:
        return runner.epoch if self.by_epoch else runner.iter

    def _advance(self, runner: Runner, now: int) -> None:
        due = now == self.end or (now < self.end and (now - self.begin) % self.interval == 0)
        if self.is_deployed or self.progress(now) == 0:
            return
        is_reached = self._step(runner, now) if due else now >= self.end
        if is_reached and self.deploy:
            self._deploy(runner)

    # -- what --------------------------------------------------------------------------

    def _step(self, runner: Runner, now: int) -> bool:
        """Remove what is due; whether the target is reached."""
        pruner, progress = self.target, self.progress(now)
        self.look_at_data(runner)
        is_reached = progress == 1
        if self.channels is None or is_reached:
            pruner.prune(progress, self.regrow)
        else:
            is_reached = pruner.remove(self.channels)
        if self.listen:
            pruner.importance.reset()
        device = next(runner.model.parameters()).device
        # Sums over data may be rounded differently from process to process.
        found = {**pruner.current_subnet(), '': torch.tensor([float(is_reached)])}
        found = shared_subnet(found, device)
        is_reached = bool(found.pop(''))
        self._set(runner, found)
        cost, full = pruner.cost(), pruner.cost(pruner.full_subnet())
        way = (
            f'{progress:.1%} of the way'
            if self.channels is None
            else 'at the target'
            if is_reached
            else 'on the way'
        )
        runner.logger.info(
            f'IterativePruning: {way}: {cost["macs"]:,} MACs '
            f'({cost["macs"] / full["macs"]:.1%}), {cost["params"]:,} parameters '
            f'({cost["params"] / full["params"]:.1%})'
        )
        return is_reached

    def look_at_data(self, runner: Runner) -> None:
        """Let the importance see images, unless it has listened."""
        importance = self.target.importance
        if not (self.listen and importance.num_batches):
            super().look_at_data(runner)
            return
        for key in sorted(importance.sums):
            all_reduce(importance.sums[key])

    def _set(self, runner: Runner, subnet: Subnet) -> None:
        self.pruner.set_subnet(subnet)
        for average in averaged_models(runner):
            write_masks(average, self.pruner.supernet.masks.by_key())

    def _deploy(self, runner: Runner) -> None:
        """Go on with the small network."""
        channel_cfg = self.pruner.export_subnet()
        report = self.pruner.verify_subnet(subnet=self.pruner.current_subnet())
        if not report.ok:
            raise InputError(f'IterativePruning: the model was not deployed. {report}')
        deploy_in_training(runner, channel_cfg)
        self.channel_cfg = channel_cfg
        runner.logger.info(f'IterativePruning: training goes on with the small network. {report}')
        if is_main_process():
            path = Path(runner.work_dir) / 'deployed.py'
            write_deployed_config(runner.cfg, path, channel_cfg, without_wrapper(runner.model))

    # -- checkpoints -------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down which channels a deployed model has, or what was heard until now."""
        if self.channel_cfg is not None:
            checkpoint[CHANNEL_CFG_KEY] = self.channel_cfg
        elif self.listen:
            importance = self.target.importance
            checkpoint[HEARD_KEY] = dict(importance.sums), importance.num_batches

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Deploy the model as in the training that the checkpoint is of, or go on listening."""
        self.follow(runner, checkpoint)
        path = runner._load_from
        found = saved_by_hook(checkpoint, HEARD_KEY, _HEARD, path)
        if found is None or not runner._resume or not self.listen:
            return
        sums, batches = found
        shapes = {
            key: (self.pruner.channel_groups[key[0]].num_channels, *values.shape[1:])
            for key, values in sums.items()
            if key[0] in self.pruner.channel_groups
        }
        check_tensors(sums, shapes, f'{path}: {HEARD_KEY}')
        self.target.importance.reset()
        self.target.importance.add(sums, batches)

    def follow(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        """Deploy a runner's model, if a checkpoint is that of a deployed one and it is not yet."""
        channel_cfg = checkpoint.get(CHANNEL_CFG_KEY)
        if channel_cfg is not None and not self.is_deployed:
            source = f'{runner._load_from}: its channel config'
            deploy_in_training(runner, as_channel_cfg(channel_cfg, source))
            self.channel_cfg = dict(channel_cfg)


def follow_checkpoint(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Let a runner's hooks make its model the one that a checkpoint is of, before it is loaded."""
    for hook in runner.hooks:
        if isinstance(hook, IterativePruning):
            hook.follow(runner, checkpoint)
