"""Widths that Markov chains draw, one per group, whose chances are learned (DMCP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.cost import CostError
from mmprune.errors import InputError
from mmprune.pruners.budget import Limits, check_budget
from mmprune.pruners.ratio_pruner import RatioPruner
from mmprune.pruners.search_space import SearchSpace
from mmprune.registry import PRUNERS
from mmprune.supernet.supernet import Subnet
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS, channel_dim
from mmprune.trace.tracer import DemoInput

TENTHS = tuple(tenth / 10 for tenth in range(1, 11))


@PRUNERS.register_module()
class MarkovPruner(RatioPruner):
    """Draws the width of every group by a Markov chain, whose chances the hook ``DMCP`` trains.

    Guo, Wang, Li, Yan, "DMCP: Differentiable Markov Channel Pruning for Neural Networks", 2020,
    section 3. The widths of a group are the rungs of a ladder. The narrowest one is always there;
    from each the next wider one is reached with a chance of its own, the sigmoid of a logit. Before
    training all rungs are equally likely, as a ``RatioPruner`` draws them.

    Groups that no convolution or linear layer reads (queries and keys, when single dims of heads
    are pruned) cannot be masked, and stay whole.

    Args:
        budget: What the learned subnet may cost, ``dict(macs=..., params=...)``, one or both:
            shares of the full network's up to 1, above that numbers.
        ratios: The rungs, as shares of a group's channels.
        **kwargs: See ``StructurePruner``.

    Attributes:
        logits: (groups, rungs - 1), float64, on the CPU; minus infinity where a group has fewer.
        widths: Channels at every rung, (groups, rungs), float64; 0 where there is none.

    Raises:
        InputError: An option makes no sense.
    """

    logits: torch.Tensor
    widths: torch.Tensor

    def __init__(
        self, budget: Mapping[str, float], ratios: Sequence[float] = TENTHS, **kwargs: Any
    ) -> None:
        super().__init__(ratios, **kwargs)
        self.budget = check_budget(budget, has_latency=False)

    def prepare_from_supernet(
        self, supernet: nn.Module, demo_input: DemoInput | None = None
    ) -> None:
        """Trace a network and patch its modules; make a chain for every group.

        Raises:
            InputError: Not even the narrowest widths are within the budget, or it depends on more
                than widths what a subnet costs.
        """
        super().prepare_from_supernet(supernet, demo_input)
        self.space: SearchSpace = self.search_space()
        limits, smallest = self.limits, self.space.costs['smallest']
        if not limits.fit(smallest):
            raise InputError(
                'MarkovPruner: the narrowest widths cost more than the budget: '
                f'{limits.describe(smallest)}. Raise the budget, or give smaller ratios'
            )
        rungs = max(map(len, self.space.values()))
        self.widths = torch.zeros(len(self.space), rungs, dtype=torch.float64)
        logits = torch.full((len(self.space), rungs - 1), -torch.inf, dtype=torch.float64)
        read = np.concatenate([np.zeros(0, int), *(labels for _, labels in self._readers())])
        for row, (space_id, widths) in enumerate(self.space.items()):
            self.widths[row, : len(widths)] = torch.tensor(widths, dtype=torch.float64)
            above = torch.arange(len(widths) - 1, 0, -1, dtype=torch.float64)
            is_read = np.isin(self.channel_groups[space_id].labels, read).any()
            logits[row, : len(above)] = above.log() if is_read else torch.inf
        self.logits = logits.requires_grad_()
        try:
            self.expected_cost()
        except CostError as error:
            raise InputError(
                f'MarkovPruner needs costs that widths tell, so keep this group by '
                f'except_start_keys: {error}'
            ) from error

    @property
    def limits(self) -> Limits:
        """The budget in numbers."""
        return Limits.of(self.budget, self.space.costs['largest'])

    # -- the chains --------------------------------------------------------------------

    def chances(self) -> torch.Tensor:
        """The probability of every rung, (groups, rungs); gradients reach ``logits``."""
        stays = nn.functional.logsigmoid(self.logits).cumsum(1).exp()
        reached = nn.functional.pad(stays, (1, 1))
        reached[:, 0] = 1
        return reached[:, :-1] - reached[:, 1:]

    def expected_cost(self) -> dict[str, torch.Tensor]:
        """The expected cost of a subnet that is drawn, in closed form, by name of the limit."""
        return self.cost_table().expected(self.widths, self.chances(), list(self.budget))

    def sample_subnet(self) -> Subnet:
        """Widths drawn by the chains, by numpy's global random state."""
        stays = self.logits.detach().sigmoid().numpy()
        climbs = np.random.random(stays.shape) < stays
        return self.space.subnet_at(climbs.cumprod(1).sum(1).tolist())

    def learned_subnet(self) -> Subnet:
        """The rungs that are nearest to the expected widths, or as near as the budget allows.

        What the budget leaves goes to the groups that are furthest below their expected widths.
        """
        expected = (self.widths * self.chances().detach()).sum(1).tolist()
        means = dict(zip(self.space, expected, strict=True))
        wish = {space_id: max(1, round(mean)) for space_id, mean in means.items()}
        choices = self.repair(wish, self.budget, self.space)
        for space_id in sorted(means, key=lambda space_id: choices[space_id] - means[space_id]):
            level = self.space[space_id].index(choices[space_id]) + 1
            if level < len(self.space[space_id]):
                wider = {**choices, space_id: self.space[space_id][level]}
                if self.limits.fit(self.costs([self.space.subnet(wider)])[0]):
                    choices = wider
        return self.space.subnet(choices)

    # -- the network with soft masks -----------------------------------------------------

    @contextmanager
    def softened(self) -> Iterator[None]:
        """Context in which every channel is multiplied by its probability, wherever it is read.

        The network has its full width. Gradients reach ``logits``.
        """
        chances, keep = self.chances(), torch.ones(self.supernet.size, dtype=torch.float64)
        for row, (space_id, masks) in enumerate(self.space.masks.items()):
            rungs = torch.stack([mask.flatten().double().cpu() for mask in masks.values()])
            labels = torch.from_numpy(self.channel_groups[space_id].labels)
            keep = keep.index_put((labels,), chances[row, : len(rungs)] @ rungs)
        on_device: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

        def soften(labels: torch.Tensor, module: nn.Module, args: Any) -> Any:
            data = args[0]
            key = data.device, data.dtype
            if key not in on_device:
                on_device[key] = nn.functional.pad(keep, (0, 1), value=1).to(*key)
            factors = on_device[key][labels.to(data.device)]  # the last one is for labels below 0
            return data * factors.view(-1, *(1,) * (-1 - channel_dim(module))), *args[1:]

        with ExitStack() as stack:
            for module, read in self._readers():
                hook = partial(soften, torch.from_numpy(np.maximum(read, -1)))
                stack.enter_context(module.register_forward_pre_hook(hook))
            yield

    def _readers(self) -> Iterator[tuple[nn.Module, np.ndarray]]:
        """The layers that make other channels of those that they read, and what they read.

        A depthwise filter hands its channels on, whose readers they will be multiplied for.
        """
        for name, layer in self.supernet.layers.items():
            module: Any = self.supernet.model.get_submodule(name)
            if layer.inputs is None or (layer.inputs < 0).all():
                continue
            is_conv = isinstance(module, (*CONVS, *TRANSPOSED_CONVS))
            if not (is_conv and module.groups == module.in_channels > 1):
                yield module, layer.inputs
