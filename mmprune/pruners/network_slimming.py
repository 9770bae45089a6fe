"""Network slimming: one threshold for the scales of all norms."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from rich.console import Console
from rich.table import Table
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.channels.labels import kept
from mmprune.errors import InputError, check_choice
from mmprune.pruners.importance_pruner import ImportancePruner
from mmprune.pruners.shift_folding import Folding, find_folding
from mmprune.pruners.subnet_costs import SubnetCosts
from mmprune.registry import PRUNERS
from mmprune.report.tables import long, numbers
from mmprune.supernet.supernet import Subnet
from mmprune.trace.kinds import NORMS
from mmprune.trace.tracer import DemoInput

RESIDUAL = ('share', 'skip')
BEYOND = ('error', 'clamp')
ROUNDING = 1e-9
"""So that 0.29 of 100 channels are 29."""


@dataclass(frozen=True)
class Threshold:
    """The scale below which channels go, and how high it may be.

    Attributes:
        percent: Share of the scales that is below ``value``, as it was asked for.
        value: Channels whose scale is lower are removed.
        highest: The highest value that leaves every group the channels that it must keep.
        highest_percent: Share of the scales that is below ``highest``.
        group: The group whose largest scales set the limit.
        count: How many scales were sorted.
    """

    percent: float
    value: float
    highest: float
    highest_percent: float
    group: str
    count: int

    @property
    def is_safe(self) -> bool:
        """Whether no group would lose more than it may."""
        return self.value <= self.highest

    def __str__(self) -> str:
        # Rounded up, by less than one scale: what a person reads and asks for gives all of it.
        digits = max(4, len(str(self.count)) + 1)
        allowed = np.ceil(self.highest_percent * 10**digits - ROUNDING) / 10**digits
        return (
            f'threshold {self.value:.6g} (percent {self.percent:g} of {self.count:,} scales); the '
            f'highest safe threshold is {self.highest:.6g}, set by {self.group}, which allows '
            f'percent {allowed:.{digits}f}'
        )


@PRUNERS.register_module()
class NetworkSlimming(ImportancePruner):
    """Removes the channels whose norms have the smallest scales, by one threshold for all.

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network
    Slimming", 2017. Train with ``SlimmingPenalty`` first, which drives scales to zero. Then
    ``prune()`` sorts the absolute scales of all groups as they are, takes the one at ``percent`` as
    threshold, and removes the channels below it. The scales of channels that are added up
    (residuals) are one number. Groups without a scale stay whole.

    Args:
        percent: Share of the channels to remove, from 0 to below 1.
        residual: ``'share'``: the layers of a residual sum share a decision; ``'skip'``: groups
            that several layers make stay whole and do not count, as in the usual scripts.
        reduction: How the scales of one channel's norms become one number: ``'max'``, ``'mean'``,
            ``'sum'``, ``'product'`` or ``'first'``.
        beyond: What to do if ``percent`` is more than the highest safe threshold allows:
            ``'error'``, or ``'clamp'`` to remove what is allowed, and say so.
        fold_shifts: What a removed channel passes on without its scale, a constant, goes into the
            next layer's bias or the running mean of the norm behind it, where that is
            exact: at layers without zeros at the border.
        min_channels: Every group keeps this many channels, or all.
        **kwargs: See ``StructurePruner``; ``except_start_keys`` and ``round_to`` among them.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        percent: float = 0.5,
        residual: str = 'share',
        reduction: str = 'max',
        beyond: str = 'error',
        fold_shifts: bool = True,
        min_channels: int = 1,
        **kwargs: Any,
    ) -> None:
        if (
            isinstance(percent, bool)
            or not isinstance(percent, int | float)
            or not 0 <= percent < 1
        ):
            raise InputError(
                'NetworkSlimming: percent is the share of channels to remove, from 0 to below 1, '
                f'not {percent!r}'
            )
        check_choice('NetworkSlimming: residual', residual, RESIDUAL)
        check_choice('NetworkSlimming: beyond', beyond, BEYOND)
        super().__init__(
            ratio=1 - percent,
            max_removed=1,
            min_channels=min_channels,
            importance=dict(type='BNScaleImportance', reduction=reduction, normalise='none'),
            **kwargs,
        )
        self.percent = percent
        self.residual = residual
        self.beyond = beyond
        self.fold_shifts = fold_shifts
        self.undecided: dict[str, str] = {}
        self.folding: Folding | None = None

    # -- preparing ---------------------------------------------------------------------

    def prepare_from_supernet(
        self, supernet: nn.Module, demo_input: DemoInput | None = None
    ) -> None:
        """Trace a network and patch its modules; see which groups have a say.

        Raises:
            InputError: No group has a scale.
        """
        super().prepare_from_supernet(supernet, demo_input)
        self.folding = None
        self.undecided = {
            space_id: reason
            for space_id, group in self.supernet.prunable_groups.items()
            if (reason := self._stays_whole(group))
        }
        if not self.decided:
            raise InputError(
                f'NetworkSlimming finds no norm with a scale to go by in any of the '
                f'{len(self.supernet.prunable_groups)} prunable groups'
                + (' that one layer makes' if self.residual == 'skip' else '')
            )

    @property
    def decided(self) -> dict[str, ChannelGroup]:
        """The groups whose channels are compared with the threshold."""
        groups = self.supernet.prunable_groups
        return {name: group for name, group in groups.items() if name not in self.undecided}

    def _stays_whole(self, group: ChannelGroup) -> str:
        """Why a group keeps all channels; empty if the threshold decides."""
        model = self.supernet.model
        if not self.importance.member_scores(group, model):
            return 'has no norm with a scale'
        if self.residual == 'skip':
            makers = [n for n in group.layers if _makes(n, model.get_submodule(n), group)]
            if len(makers) > 1:
                return f'is made by {len(makers)} layers ({", ".join(makers[:3])} ...)'
        return ''

    # -- the threshold -----------------------------------------------------------------

    def threshold(self, progress: float = 1) -> Threshold:
        """The threshold by the scales of now, whether it is safe or not.

        Args:
            progress: How far on the way from nothing (0) to ``percent`` (1).
        """
        return self._threshold(self._decided_scores(regrow=True), progress)

    def _decided_scores(self, regrow: bool) -> dict[str, np.ndarray]:
        """One absolute scale per channel; -1 for those that are gone and must not come back."""
        found = {}
        for space_id, group in self.decided.items():
            scores = self._scores(group)
            alive = self.supernet.alive[group.labels]
            found[space_id] = scores if regrow else np.where(alive, scores, -1.0)
        return found

    def _threshold(self, scores: Mapping[str, np.ndarray], progress: float) -> Threshold:
        ordered = np.sort(np.concatenate(list(scores.values())))
        percent = self.percent * progress
        place = min(int(len(ordered) * percent + ROUNDING), len(ordered) - 1)
        limits = {name: self._limit(self.decided[name], own) for name, own in scores.items()}
        group = min(limits, key=limits.__getitem__)
        highest = limits[group]
        below = int(np.searchsorted(ordered, highest))
        return Threshold(
            percent, float(ordered[place]), highest, below / len(ordered), group, len(ordered)
        )

    def _limit(self, group: ChannelGroup, scores: np.ndarray) -> float:
        """The highest threshold that leaves a group enough, and something of each of its parts."""
        limit = float(np.sort(scores)[-self.floor(group)])
        return min([limit, *(float(scores[part].max()) for _, part in group.parts)])

    def _enforced(self, threshold: Threshold) -> float:
        """The threshold to use.

        Raises:
            InputError: It is not safe, and not to be clamped.
        """
        if threshold.is_safe:
            return threshold.value
        if self.beyond == 'error':
            raise InputError(
                f'NetworkSlimming: a layer would be emptied. {threshold}. Lower percent, give '
                "beyond='clamp' to remove what is allowed, or train longer with the penalty"
            )
        return threshold.highest

    def _find(self, progress: float, regrow: bool) -> tuple[dict[str, int], SubnetCosts]:
        """Channels to keep by group, and what says which ones."""
        groups = self.supernet.prunable_groups
        decided = self._decided_scores(regrow)
        value = self._enforced(self._threshold(decided, progress))
        counts = {space_id: group.num_channels for space_id, group in groups.items()}
        counts.update({space_id: int((own >= value).sum()) for space_id, own in decided.items()})
        scores = {name: decided.get(name, np.zeros(g.num_channels)) for name, g in groups.items()}
        return counts, SubnetCosts(self.supernet, scores, (), self.select, self.measured_latency)

    # -- subnets -----------------------------------------------------------------------

    def prune(self, progress: float = 1, regrow: bool = True) -> Subnet:
        """Set the pruned subnet by the scales of now; say what it is; return it.

        At the end of the way (``progress`` 1) the shifts of removed channels are folded.

        Raises:
            InputError: The threshold would empty a layer; nothing is changed then.
        """
        threshold = self._threshold(self._decided_scores(regrow), progress)
        subnet = super().prune(progress, regrow)
        clamped = '' if threshold.is_safe else '. Clamped to the highest safe threshold'
        print_log(f'NetworkSlimming: {threshold}{clamped}', logger='current')
        if progress == 1:
            if self.fold_shifts and self.folding is None:
                self.folding = find_folding(self.supernet)
                self.folding.apply(self.supernet.model)
            folded = f'\n{self.folding}' if self.folding is not None else ''
            print_log(f'NetworkSlimming:\n{self.layer_table()}{folded}', logger='current')
        return subnet

    def set_subnet(self, subnet: Mapping[str, torch.Tensor]) -> None:
        """Run the supernet as ``subnet``; folded shifts belong to the pruned one, and go."""
        alive = self.supernet.alive_of(subnet)
        if (alive != self.supernet.alive).any():
            self.unfold()
        self.supernet.set_alive(alive)

    def set_max_channel(self) -> None:
        """Set the full width; folded shifts are taken back."""
        self.unfold()
        super().set_max_channel()

    def unfold(self) -> None:
        """Take folded shifts back, so that the full width computes what it did."""
        if self.folding is not None:
            self.folding.apply(self.supernet.model, -1)
            self.folding = None

    # -- for a person ------------------------------------------------------------------

    def remaining_channels(self) -> list[tuple[str, int, int]]:
        """Channels before and after of every norm, in the subnet that is set: (name, C, C)."""
        supernet = self.supernet
        return [
            (name, len(layer.outputs), int(kept(supernet.alive, layer.outputs).sum()))
            for name, layer in supernet.layers.items()
            if layer.outputs is not None and isinstance(supernet.model.get_submodule(name), NORMS)
        ]

    def layer_table(self) -> str:
        """The norms with their channels before and after, as a table; and what stays whole."""
        table = Table(long('layer'), *numbers('origin channels', 'remaining channels'))
        for name, before, after in self.remaining_channels():
            table.add_row(name, str(before), str(after))
        stream = io.StringIO()
        console = Console(file=stream, width=120)
        console.print(table)
        for space_id, reason in self.undecided.items():
            console.print(f'{space_id} {reason}: it stays whole', markup=False, highlight=False)
        return stream.getvalue().rstrip()


def _makes(name: str, module: nn.Module, group: ChannelGroup) -> bool:
    """Whether a layer makes the channels of a group anew: no norm, and not depthwise."""
    depthwise = name in group.consumers and getattr(module, 'groups', 1) > 1
    return not isinstance(module, NORMS) and not depthwise
