"""Training of a compact network whose filters are mixtures of those of the full one (DCFF)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.runner import Runner

from mmprune.errors import InputError
from mmprune.pruners import StructurePruner
from mmprune.registry import HOOKS
from mmprune.training.iterative_pruning import IterativePruning
from mmprune.training.saved_state import check_tensors, saved_by_hook

SHARES_KEY = 'mmprune_shares'
"""Where a checkpoint has the shares in which its filters are mixed."""


@HOOKS.register_module()
class DCFF(IterativePruning):
    """Trains the small network from the first step on, its filters mixtures of all of the group's.

    Lin, Ji, Zhang, Zhang, Wu, Tian, "Training Compact CNNs for Image Classification using
    Dynamic-coded Filter Fusion", 2021. Every ``interval`` from ``begin`` on, the pruner says anew
    which channels are kept, as many as its ratio or budget asks for, and each of them is computed
    with a mixture of all filters: their softmax by distance, at a temperature that falls. Gradients
    reach all filters. At ``end`` the mixtures are the weights, and the model becomes the small
    network, which computes the same; see ``IterativePruning`` for what follows.

    Args:
        pruner: See ``PrunerHook``; an ``ImportancePruner`` with a ``FusionImportance``. With
            ``scope='local'`` widths stay the same from look to look.
        input_shape: See ``PrunerHook``.
        begin: Epoch (or iteration) from which filters are mixed; counted from 0.
        end: Epoch (or iteration) at whose begin the mixtures become the weights.
        interval: Epochs (or iterations) from look to look.
        by_epoch: Whether these are epochs.
        temperatures: The first and the last one, in mean distances between a group's filters;
            what is between them falls by equal factors.
        deploy: Whether the model becomes the small network at ``end``.
        demo_input: See ``PrunerHook``.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        pruner: Mapping[str, Any] | StructurePruner | None = None,
        input_shape: Sequence[int] | None = None,
        begin: int = 0,
        end: int = 1,
        interval: int = 1,
        by_epoch: bool = True,
        temperatures: tuple[float, float] = (1.0, 1e-3),
        deploy: bool = True,
        demo_input: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            pruner, input_shape, begin, end, interval, by_epoch,
            regrow=True, deploy=deploy, demo_input=demo_input,
        )  # fmt: skip
        if not temperatures[0] >= temperatures[1] > 0:
            raise InputError(
                f'DCFF: temperatures fall, and are above 0: found {tuple(temperatures)}'
            )
        self.temperatures = temperatures
        self._mixings: Mapping[str, Any] = {}
        self._shares: dict[str, torch.Tensor] = {}

    def progress(self, now: int) -> float:
        """The small network trains from ``begin`` on."""
        return float(now >= self.begin)

    def temperature(self, now: int) -> float:
        """The temperature at an epoch or iteration."""
        first, last = self.temperatures
        time = min(1, (now - self.begin) / max(1, self.end - self.begin))
        return float(first * (last / first) ** time)

    def before_run(self, runner: Runner) -> None:
        """Prepare the model, unless it was deployed in the training that is resumed.

        Raises:
            InputError: The pruner cannot mix filters.
        """
        super().before_run(runner)
        if self.is_deployed:
            return
        kind, execution = type(self.target.importance).__name__, self.target.execution
        if not hasattr(self.target.importance, 'mixings') or execution != 'slice':
            raise InputError(
                "DCFF needs a pruner with importance=dict(type='FusionImportance') and "
                f"execution='slice', found {kind} and {execution!r}"
            )

    def _step(self, runner: Runner, now: int) -> bool:
        """Choose the channels anew and mix filters; at the end the mixtures are the weights."""
        importance, supernet = self.target.importance, self.pruner.supernet
        importance.temperature = self.temperature(now)
        super()._step(runner, now)
        shares = importance.all_shares(supernet.groups, supernet.model)
        self._shares = {name: logs.float() for name, logs in shares.items()}
        self._mix()
        if now >= self.end:
            self._settle()
        return now >= self.end

    def _mix(self) -> None:
        supernet, importance = self.pruner.supernet, self.target.importance
        subnet = self.pruner.current_subnet()
        self._mixings = importance.mixings(supernet.groups, supernet.model, subnet, self._shares)
        supernet.execution.mix(self._mixings)
        supernet.set_alive(supernet.alive)

    @torch.no_grad()
    def _settle(self) -> None:
        """Write the mixtures into the parameters."""
        supernet = self.pruner.supernet
        for name, mixed in self._mixings.items():
            parameter = supernet.model.get_parameter(name)
            parameter.copy_(mixed(parameter))
        self._mixings, self._shares = {}, {}
        supernet.execution.mix(self._mixings)
        supernet.set_alive(supernet.alive)

    # -- checkpoints -------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down which channels a deployed model has, or the shares of the mixtures."""
        super().before_save_checkpoint(runner, checkpoint)
        if self._mixings:
            checkpoint[SHARES_KEY] = self._shares

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Deploy the model, or remember in which shares its filters were mixed.

        Raises:
            InputError: They are those of another network.
        """
        super().after_load_checkpoint(runner, checkpoint)
        if self.is_deployed:
            return
        path = runner._load_from
        found = saved_by_hook(checkpoint, SHARES_KEY, dict[str, torch.Tensor], path)
        if found is not None:
            supernet = self.pruner.supernet
            own = self.target.importance.all_shares(supernet.groups, supernet.model)
            shapes = {name: shares.shape for name, shares in own.items()}
            check_tensors({**dict.fromkeys(shapes), **found}, shapes, f'{path}: {SHARES_KEY}')
        self._shares = found or {}

    def _mix_again(self) -> None:
        if self._shares and not self._mixings and not self.is_deployed:
            self._mix()

    def before_train(self, runner: Runner) -> None:
        """Mix filters as before."""
        super().before_train(runner)
        self._mix_again()

    def before_test(self, runner: Runner) -> None:
        """Mix filters as in training."""
        self._mix_again()

    def before_val(self, runner: Runner) -> None:
        """Mix filters as in training."""
        self._mix_again()
