"""Training of the chances by which a supernet's widths are drawn, in turns with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.optim import OPTIMIZERS
from mmengine.runner import Runner

from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.errors import InputError
from mmprune.models import AutoSlim
from mmprune.models.algorithm import WRAPPED
from mmprune.models.norm_statistics import kept_norm_statistics
from mmprune.models.training_data import training_data
from mmprune.pruners import MarkovPruner
from mmprune.registry import HOOKS
from mmprune.schema import Amount
from mmprune.training.carry_over import averaged_models, loss_scale_of, write_masks
from mmprune.training.pruner_hook import PrunerHook
from mmprune.training.saved_state import check_state, check_tensors, saved_by_hook
from mmprune.wrappers import without_wrapper

STATE_KEY = 'mmprune_dmcp'
"""Where a checkpoint has the chains and the state of their optimizer."""


@dataclass(frozen=True)
class _State:
    logits: torch.Tensor
    optimizer: dict[str, Any]
    first: dict[str, Amount] | None


@HOOKS.register_module()
class DMCP(PrunerHook):
    """Learns the widths of an AutoSlim whose pruner is a ``MarkovPruner``, while it trains.

    Guo, Wang, Li, Yan, "DMCP: Differentiable Markov Channel Pruning for Neural Networks", 2020.
    The steps of the AutoSlim train the weights: the widest, the narrowest, and widths that the
    chains draw. In turns with them the chains are trained on the same images: the loss of the full
    network, each channel multiplied by its probability, plus ``weight`` times what the expected
    cost is off its target, as a share of it. The expected cost is exact (``CostTable.expected``);
    the target moves from that of the first step to the pruner's budget.

    Every checkpoint has the masks of the subnet that is learned by then, so that
    ``tools/export_subnet.py`` and ``tools/deploy_subnet.py`` find it, and at the end
    ``channel_cfg.yaml`` is in the work directory.

    Args:
        begin: Share of the training's iterations before the chains are trained.
        end: Share at which the target is the budget.
        interval: Steps of the weights to one of the chains.
        optimizer: Of the chains' logits, a config of one of torch's.
        weight: Of the cost.
        slack: Below its target the cost counts nothing as long as it is within this share of it.

    Raises:
        InputError: An option makes no sense.
    """

    writes = ('channel_cfg.yaml',)

    def __init__(
        self,
        begin: float = 0.2,
        end: float = 0.7,
        interval: int = 1,
        optimizer: Mapping[str, Any] | None = None,
        weight: float = 1.0,
        slack: float = 0.02,
    ) -> None:
        super().__init__()
        if not 0 <= begin < end <= 1 or interval < 1 or not weight > 0 or not 0 <= slack < 1:
            raise InputError(
                'DMCP needs 0 <= begin < end <= 1, interval >= 1, weight > 0 and 0 <= slack < 1, '
                f'got begin={begin}, end={end}, interval={interval}, weight={weight}, slack={slack}'
            )
        self.begin, self.end, self.interval = begin, end, interval
        self.settings = dict(optimizer or dict(type='Adam', lr=0.1))
        self.weight, self.slack = weight, slack
        self.first: dict[str, float] | None = None

    @property
    def chains(self) -> MarkovPruner:
        """The pruner."""
        assert isinstance(self.pruner, MarkovPruner)
        return self.pruner

    def before_run(self, runner: Runner) -> None:
        """Find the chains.

        Raises:
            InputError: The model is no AutoSlim with a ``MarkovPruner``.
        """
        model = without_wrapper(runner.model)
        pruner = getattr(model, 'pruner', None)
        if not (
            isinstance(model, AutoSlim) and model.is_slimmable and isinstance(pruner, MarkovPruner)
        ):
            raise InputError(
                "DMCP trains a model=dict(type='mmprune.AutoSlim', pruner=dict(type='MarkovPruner',"
                f' budget=...), ...), not a {type(model).__name__}'
                + (f' with a {type(pruner).__name__}' if pruner is not None else '')
            )
        self.found, self.algorithm = pruner, model
        self.optimizer = OPTIMIZERS.build({**self.settings, 'params': [pruner.logits]})

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Train the chains on the batch that has trained the weights."""
        time = runner.iter / runner.max_iters
        if time < self.begin or runner.iter % self.interval:
            return
        progress = min(1, (time - self.begin) / (self.end - self.begin))
        logits = self.chains.logits
        loss, of_loss = self._look(runner, data_batch)
        (of_cost,) = torch.autograd.grad(self.excess(progress), logits)
        all_reduce(of_loss, 'mean')
        gradient = of_loss.cpu() + self.weight * of_cost
        if gradient.isfinite().all():
            logits.grad = gradient
            self.optimizer.step()
        runner.message_hub.update_scalar('train/chain_loss', loss.item())

    def _look(self, runner: Runner, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the softened network, and its gradient; no trace is left in the norms."""
        algorithm, wrapper = self.algorithm, runner.optim_wrapper
        data = training_data(algorithm.data_preprocessor, batch)
        scale = loss_scale_of(wrapper)
        with kept_norm_statistics(algorithm.architecture), self.chains.softened():
            with wrapper.optim_context(runner.model):
                losses = algorithm.architecture(**data, mode='loss')
            loss = algorithm.parse_losses(losses)[0]
            # Inside, since checkpointed parts run again in the backward pass.
            (gradient,) = torch.autograd.grad(loss * scale, self.chains.logits)
        return loss.detach(), gradient.to(loss.device) / scale

    def excess(self, progress: float) -> torch.Tensor:
        """What the expected costs are off their targets, as shares of these, added up.

        Args:
            progress: How far the targets are on the way to the budget, 0 to 1.
        """
        costs, limits = self.chains.expected_cost(), self.chains.limits.limits
        if self.first is None:
            self.first = {name: cost.item() for name, cost in costs.items()}
        total = self.chains.logits.new_zeros(())
        for name, cost in costs.items():
            target = self.first[name] + progress * (limits[name] - self.first[name])
            off = cost / target - 1
            total = total + off.relu() + (-self.slack - off).relu()
        return total

    # -- what is learned -----------------------------------------------------------------

    def after_train(self, runner: Runner) -> None:
        """Set the subnet that was learned; say what it costs; write it."""
        self.chains.set_subnet(self.chains.learned_subnet())
        costs = self.chains.limits.describe(self.chains.cost())
        runner.logger.info(f'DMCP: the learned subnet has {costs}')
        if is_main_process():
            save_channel_cfg(
                self.chains.export_subnet(), Path(runner.work_dir) / 'channel_cfg.yaml'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down the chains, and the masks of the subnet that is learned by now."""
        pruner = self.chains
        checkpoint[STATE_KEY] = {
            'logits': pruner.logits.detach().clone(),
            'optimizer': self.optimizer.state_dict(),
            'first': self.first,
        }
        before = pruner.current_subnet()
        pruner.set_subnet(pruner.learned_subnet())
        masks = {key: mask.clone() for key, mask in pruner.supernet.masks.by_key().items()}
        pruner.set_subnet(before)
        checkpoint['state_dict'].update({WRAPPED + k: mask.cpu() for k, mask in masks.items()})
        for average in averaged_models(runner):
            write_masks(average, masks)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on with the chains, if the training goes on."""
        where = f'{runner._load_from}: {STATE_KEY}'
        state = saved_by_hook(checkpoint, STATE_KEY, _State, runner._load_from)
        if state is None or not runner._resume:
            return
        logits = self.chains.logits
        check_tensors({'logits': state.logits}, {'logits': logits.shape}, where, any_numbers=True)
        if not torch.equal(state.logits.isfinite(), logits.isfinite().cpu()):
            raise InputError(f'{where}: logits has numbers that are none')
        check_state(self.optimizer, state.optimizer, f'{where}: ')
        if state.first is not None and state.first.keys() != self.chains.limits.limits.keys():
            raise InputError(f'{where}: first is of {", ".join(state.first)}, the budget is not')
        with torch.no_grad():
            logits.copy_(state.logits)
        self.optimizer.load_state_dict(state.optimizer)
        self.first = state.first
