"""Penalties that make channels fit to be removed, added to the gradients of every step."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.labels import kept
from mmprune.channels.member_values import channel_sums, spread
from mmprune.errors import InputError
from mmprune.layers.layer import NORMS
from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import HOOKS
from mmprune.training.carry_over import optimizers_of
from mmprune.training.pruner_hook import PrunerHook, check_not_slimmable
from mmprune.training.saved_state import saved_by_hook

CHOSEN_KEY = 'mmprune_chosen'
"""Where a checkpoint holds what stays of the channels that a growing penalty has chosen from."""
Terms = Iterator[tuple[nn.Parameter, torch.Tensor]]
"""Parameters, and what is added to their gradients; a parameter may come several times."""


class Regulariser(PrunerHook):
    """Adds the gradient of a penalty right before every step of the optimizer.

    So it is added once per step, also if several backward passes belong to one; it is not scaled
    by mixed precision's loss scale, and not clipped. It ends when the model is deployed
    in place. Channels of prunable groups are penalised, also those that the subnet lacks.
    In a loop without a runner ``add_gradients`` does the same.

    Args:
        weight: Strength of the penalty, 0 or more.
        **kwargs: See ``PrunerHook``.

    Raises:
        InputError: ``weight`` is negative.
    """

    # Behind a hook that prepares the model, before EMAHook copies it.
    priority = 'HIGH'

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not weight >= 0:
            raise InputError(f'{type(self).__name__}: weight must be 0 or more, not {weight!r}')
        self.weight = weight
        self.handles: list[Any] = []
        self.iteration = 0

    @abc.abstractmethod
    def terms(self) -> Terms:
        """The gradient of the penalty at the parameters of now."""

    def before_run(self, runner: Runner) -> None:
        """Find the pruner; where the model was deployed earlier, there is nothing to do."""
        if not any(getattr(hook, 'is_deployed', False) for hook in runner.hooks):
            check_not_slimmable(self, runner)
            super().before_run(runner)

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizers."""
        for optimizer in optimizers_of(runner.optim_wrapper):
            self.handles.append(optimizer.register_step_pre_hook(self._before_step))

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizers alone."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @property
    def is_active(self) -> bool:
        """Whether the model still is a supernet, and the penalty is on."""
        if self.weight == 0 or self.found is None:
            return False
        return self.found.supernet.is_current

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self.is_active:
            return
        held = {id(p) for group in optimizer.param_groups for p in group['params']}
        for parameter, term in self.terms():
            if id(parameter) in held and parameter.grad is not None:
                parameter.grad.add_(term)

    # -- without a runner ----------------------------------------------------------------

    @torch.no_grad()
    def add_gradients(self, pruner: StructurePruner) -> None:
        """Add the penalty's gradient to those that a backward pass has left.

        For a loop of one's own: call it once per step, between ``loss.backward()`` and
        ``optimizer.step()``; with a gradient scaler behind ``scaler.unscale_(optimizer)``. It does
        nothing once the network is deployed in place.

        Args:
            pruner: It has prepared the network.
        """
        self.found = pruner
        if not self.is_active:
            return
        self.advance(self.iteration)
        self.iteration += 1
        for parameter, term in self.terms():
            if parameter.grad is not None:
                parameter.grad.add_(term)

    def advance(self, iteration: int) -> None:
        """What changes from one iteration to the next, counted from 0: nothing, as a rule."""

    # -- members -----------------------------------------------------------------------

    def members(self) -> Iterator[tuple[ChannelGroup, Member, nn.Parameter]]:
        """All parameters of all prunable groups."""
        supernet = self.pruner.supernet
        parameters = dict(supernet.model.named_parameters(remove_duplicate=False))
        for group in supernet.prunable_groups.values():
            for member in group.members:
                if member.tensor in parameters:
                    yield group, member, parameters[member.tensor]


@HOOKS.register_module()
class ScaleL1(Regulariser):
    """L1 on the scales of norms: gradient += weight * sign(scale).

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network
    Slimming", 2017, section 3.

    Args:
        weight: Strength, 1e-5 to 1e-4 in the paper.
        **kwargs: See ``PrunerHook``.
    """

    def __init__(self, weight: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)

    def terms(self) -> Terms:
        """Signs of the scales, and perhaps of the shifts, times their strengths."""
        for group, member, parameter, local in self.of_norms():
            on = spread(parameter.new_ones(group.num_channels), member, parameter.dim())
            yield parameter, self.strengths[local] * on * parameter.sign()

    @property
    def strengths(self) -> dict[str, float]:
        """How strong the penalty is on scales, ``'weight'``, and on shifts, ``'bias'``."""
        return {'weight': self.weight}

    def of_norms(self) -> Iterator[tuple[ChannelGroup, Member, nn.Parameter, str]]:
        """Scales and shifts that are penalised, each with which of the two it is."""
        model = self.pruner.supernet.model
        for group, member, parameter in self.members():
            owner, _, local = member.tensor.rpartition('.')
            if local in self.strengths and isinstance(model.get_submodule(owner), NORMS):
                yield group, member, parameter, local


@HOOKS.register_module()
class GroupLasso(Regulariser):
    """The L2 norm of all weights of a channel: gradient += weight * w / norm.

    Wen, Wu, Wang, Chen, Li, "Learning Structured Sparsity in Deep Neural Networks", 2016,
    section 3.1, with a group for every channel of mmprune's: the norm is taken over the
    weights of all coupled layers together, those that read the channel too, so that they
    go to zero together. A weight between two prunable channels has a term for each.

    Args:
        weight: Strength.
        size_weighted: Multiply by the square root of the number of a channel's weights (Yuan and
            Lin, "Model Selection and Estimation in Regression with Grouped Variables", 2006,
            section 2).
        **kwargs: See ``PrunerHook``.
    """

    def __init__(self, weight: float = 1e-4, size_weighted: bool = False, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)
        self.size_weighted = size_weighted

    def terms(self) -> Terms:
        """Weights over norms of their channels."""
        by_group: dict[str, list[tuple[Member, nn.Parameter]]] = {}
        sums: dict[str, torch.Tensor] = {}
        sizes: dict[str, torch.Tensor] = {}
        for group, member, parameter in self.members():
            if parameter.dim() < 2:
                continue
            name, count = group.space_id, group.num_channels
            by_group.setdefault(name, []).append((member, parameter))
            squares = channel_sums(parameter.square(), member, count)
            sums[name] = sums[name] + squares if name in sums else squares
            if self.size_weighted:
                ones = channel_sums(torch.ones_like(parameter), member, count)
                sizes[name] = sizes[name] + ones if name in sizes else ones
        for name, members in by_group.items():
            factors = sums[name].sqrt().clamp(min=1e-12).reciprocal() * self.weight
            if self.size_weighted:
                factors = factors * sizes[name].sqrt()
            for member, parameter in members:
                yield parameter, spread(factors.to(parameter), member, parameter.dim()) * parameter


@HOOKS.register_module()
class GrowingPenalty(Regulariser):
    """An L2 penalty that grows, on the channels that will be removed: gradient += lambda * w.

    Wang, Qin, Zhang, Fu, "Neural Pruning via Growing Regularization", 2021, section 3 (GReg-1).
    At ``begin`` the pruner's target says which channels go; from then on, lambda grows
    by ``weight`` every ``interval`` iterations, up to ``ceiling``, and drives their weights to
    zero. Prune when it has: ``IterativePruning`` with ``begin`` equal to ``end``.

    Args:
        weight: What lambda grows by, 1e-4 in the paper.
        interval: Iterations from growth to growth.
        ceiling: The largest lambda.
        begin: Iteration at which the channels are chosen and lambda begins to grow.
        **kwargs: See ``PrunerHook``; the pruner is an ``ImportancePruner``.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        weight: float = 1e-4,
        interval: int = 10,
        ceiling: float = 1.0,
        begin: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, **kwargs)
        if interval < 1 or begin < 0 or not ceiling >= 0:
            raise InputError(
                'GrowingPenalty needs interval >= 1, begin >= 0 and ceiling >= 0, got '
                f'interval={interval}, begin={begin}, ceiling={ceiling}'
            )
        self.interval = interval
        self.ceiling = ceiling
        self.begin = begin
        self.strength = 0.0
        self.leaving: list[tuple[nn.Parameter, torch.Tensor]] | None = None
        self.chosen: Subnet | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Choose the channels, once, and let the penalty grow."""
        if runner.iter < self.begin or not self.is_active:
            return
        if self.chosen is None:
            self.look_at_data(runner)
        self.advance(runner.iter)

    def advance(self, iteration: int) -> None:
        """Choose the channels, once, and let the penalty grow.

        Without a runner, an importance that looks at data must have seen some by ``begin``.
        """
        if iteration < self.begin:
            return
        steps = (iteration - self.begin) // self.interval + 1
        self.strength = min(steps * self.weight, self.ceiling)
        if self.leaving is None:
            self.leaving = list(self._leaving())

    def _leaving(self) -> Terms:
        """1 for every weight that the target lacks, 0 for the others, by parameter."""
        supernet = self.pruner.supernet
        if self.chosen is None:
            self.chosen = self.target.pruned_subnet()
        alive = supernet.alive_of(self.chosen)
        found = {id(p): (p, member.tensor) for _, member, p in self.members() if p.dim() > 1}
        for parameter, name in found.values():
            stays = torch.ones_like(parameter)
            for factor in supernet.labelling.tensors[name]:
                stays *= torch.from_numpy(kept(alive, factor)).to(parameter)
            yield parameter, 1 - stays

    def terms(self) -> Terms:
        """What goes, times the penalty."""
        for parameter, leaving in self.leaving or ():
            yield parameter, self.strength * leaving * parameter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep which channels were chosen, for a training that goes on."""
        if self.chosen is not None:
            checkpoint[CHOSEN_KEY] = self.chosen

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Choose no others, if the training goes on."""
        if runner._resume:
            path, kind = runner._load_from, dict[str, torch.Tensor]
            self.chosen = saved_by_hook(checkpoint, CHOSEN_KEY, kind, path)
