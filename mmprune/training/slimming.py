"""Training for network slimming: the penalty on scales and shifts, and how the scales develop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.pruners import NetworkSlimming
from mmprune.registry import HOOKS
from mmprune.training.regularisers import ScaleL1
from mmprune.training.saved_state import check_tensors, saved_by_hook

HISTORY_KEY = 'mmprune_scales'
"""Where a checkpoint holds the scales of the epochs until then."""
RECORDED = 2048
"""Of more scales than this, that many are kept per epoch, evenly spaced in their order."""


@HOOKS.register_module()
class SlimmingPenalty(ScaleL1):
    """L1 on the scales and shifts of norms, weaker towards the end of training.

    The gradient of every scale += weight * (1 - decay * time) * sign(scale), with time the
    share of the epochs that are over (of the iterations, where training is counted in these), and
    that of every shift += shift_factor * weight * sign(shift). After Liu, Li, Shen, Huang, Yan,
    Zhang, "Learning Efficient Convolutional Networks through Network Slimming", 2017, section 3,
    which has the first term, with ``decay`` 0. Of a ``NetworkSlimming`` pruner only the groups
    are penalised that it decides about.

    At the end ``scales.png`` is in the work directory: the histogram of the absolute scales after
    every epoch, the first one before training.

    Args:
        weight: Strength, written sr in many scripts: 1e-5 to 1e-4 in the paper.
        decay: Share of the strength on the scales that is gone at the end, from 0 to 1.
        shift_factor: Strength on the shifts over that on the scales at the beginning; 0 leaves
            shifts alone.
        plot: Whether to write ``scales.png``.
        **kwargs: See ``PrunerHook``: ``pruner`` and ``input_shape``.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        weight: float = 1e-4,
        decay: float = 0.9,
        shift_factor: float = 10,
        plot: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, **kwargs)
        if not 0 <= decay <= 1 or not shift_factor >= 0:
            raise InputError(
                'SlimmingPenalty needs decay from 0 to 1 and shift_factor 0 or more, got '
                f'decay={decay}, shift_factor={shift_factor}'
            )
        self.decay = decay
        self.shift_factor = shift_factor
        self.plot = plot
        self.time = 0.0
        self.history: list[torch.Tensor] = []

    # -- the penalty -------------------------------------------------------------------

    def before_train_epoch(self, runner: Runner) -> None:
        """See how much of the training is over, in epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.time = runner.epoch / runner.max_epochs

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """See how much of the training is over, where it has no epochs."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.time = runner.iter / runner.max_iters

    @property
    def strengths(self) -> dict[str, float]:
        """Those of now."""
        strength = self.weight * (1 - self.decay * self.time)
        return {'weight': strength, 'bias': self.weight * self.shift_factor}

    def members(self) -> Iterator[tuple[ChannelGroup, Member, nn.Parameter]]:
        """All parameters of the groups whose channels may go."""
        undecided = getattr(self.pruner, 'undecided', {})
        return (found for found in super().members() if found[0].space_id not in undecided)

    # -- how the scales develop --------------------------------------------------------

    def scales(self) -> torch.Tensor:
        """The absolute scales of the norms, in order, at most ``RECORDED`` of them; float32."""
        found = [
            parameter.detach()[torch.from_numpy(member.index >= 0).to(parameter.device)]
            for _, member, parameter, local in self.of_norms()
            if local == 'weight'
        ]
        ordered = torch.cat(found or [torch.zeros(0)]).abs().float().cpu().sort().values
        if len(ordered) > RECORDED:
            places = torch.linspace(0, len(ordered) - 1, RECORDED).round().long()
            ordered = ordered[places]
        return ordered

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizers; record the scales before training."""
        super().before_train(runner)
        if self.is_active and not self.history:
            self.history.append(self.scales())

    def after_train_epoch(self, runner: Runner) -> None:
        """Record the scales."""
        if self.is_active:
            self.history.append(self.scales())

    def after_train(self, runner: Runner) -> None:
        """Draw the histograms."""
        super().after_train(runner)
        if not self.plot or not self.history or not is_main_process():
            return
        threshold = None
        if self.is_active and isinstance(self.pruner, NetworkSlimming):
            found = self.pruner.threshold()
            threshold = found.value
            runner.logger.info(f'SlimmingPenalty: {found}')
        path = Path(runner.work_dir) / 'scales.png'
        plot_scales(self.history, path, threshold)
        runner.logger.info(f'SlimmingPenalty: histograms of the scales are in {path}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep what was recorded, for a training that goes on."""
        checkpoint[HISTORY_KEY] = list(self.history)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on recording, if the training goes on."""
        path = runner._load_from
        found = saved_by_hook(checkpoint, HISTORY_KEY, list[torch.Tensor], path)
        if runner._resume and found is not None:
            shapes = dict.fromkeys(range(len(found)), self.scales().shape)
            check_tensors(dict(enumerate(found)), shapes, f'{path}: {HISTORY_KEY}')
            self.history = found


def plot_scales(
    history: Sequence[torch.Tensor], path: Path, threshold: float | None = None, bins: int = 60
) -> None:
    """Draw histograms of scales over epochs: one column each, its colour the number of scales.

    Args:
        history: Absolute scales before training and after every epoch, (C,) each.
        path: The picture, PNG or SVG by its suffix.
        threshold: Drawn as a line.
        bins: Of every histogram, from 0 to the largest scale.

    Raises:
        InputError: No scale was recorded.
    """
    # Imported here, because nothing else needs it.
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    highest = max((float(scales.max()) for scales in history if len(scales)), default=0.0)
    if not history or highest == 0:
        raise InputError('there are no scales to draw: none was recorded, or all are 0')
    edges = np.linspace(0, highest, bins + 1)
    counts = np.stack([np.histogram(scales.numpy(), edges)[0] for scales in history], axis=1)
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()
    epochs = np.arange(len(history) + 1) - 0.5
    shown = np.ma.masked_equal(counts, 0)
    drawn = axes.pcolormesh(epochs, edges, shown, norm=LogNorm(1, max(2, counts.max())))
    figure.colorbar(drawn, ax=axes, label='scales')
    if threshold is not None:
        axes.axhline(threshold, color='tab:red', linewidth=1, label=f'threshold {threshold:.3g}')
        axes.legend()
    axes.set(title='Scales of the norms', xlabel='epochs of training', ylabel='absolute scale')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
