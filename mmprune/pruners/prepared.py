"""A prepared network and what is asked of it: which channels stay, and what that costs."""

from __future__ import annotations

import abc
import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.cost import CostTable
from mmprune.errors import InputError
from mmprune.execution import preparing
from mmprune.formats.cfg_codec import write_cfg
from mmprune.pruners.arguments import checked_counts, checked_scores
from mmprune.pruners.rounding import select_rounded
from mmprune.supernet.supernet import Subnet, Supernet

P = ParamSpec('P')
T = TypeVar('T')


class Exported:
    """A channel config as it was written, which need not be checked and read as others are.

    Args:
        supernet: Whose subnet it is.
        cfg: The channel config; whoever has it may change it afterwards.
        alive: The labels that the subnet keeps, (num_labels,).
    """

    def __init__(self, supernet: Supernet, cfg: dict[str, Any], alive: BoolArray) -> None:
        self.supernet, self.alive = supernet, alive.copy()
        self._written = _written(cfg)

    def alive_of(self, supernet: Supernet, cfg: Any) -> BoolArray | None:
        """The labels that a channel config keeps, if it is this one, of this supernet."""
        is_same = supernet is self.supernet and self._written == _written(cfg) is not None
        return self.alive if is_same else None


def _written(cfg: Any) -> bytes | None:
    """All that is in a plain dict, types included: 1, 1.0 and True differ. None of another."""
    try:
        # Version 2 is the last that writes equal objects alike whoever else holds them.
        return marshal.dumps(cfg, 2) if type(cfg) is dict else None
    except ValueError:  # something in it is no plain data
        return None


def alone(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a pruner during which its network runs in no other thread, and none prepares."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        supernet = cast(Prepared, args[0])._supernet
        with preparing(), nullcontext() if supernet is None else supernet.execution.alone:
            return method(*args, **kwargs)

    return run


class Prepared(abc.ABC):
    """What all parts of a pruner go by."""

    importance: Any
    round_to: int
    _supernet: Supernet | None = None
    _exported: Exported | None = None

    @property
    def supernet(self) -> Supernet:
        """The prepared network.

        Raises:
            RuntimeError: ``prepare_from_supernet`` has not been called.
        """
        if self._supernet is None:
            raise RuntimeError(
                f'{type(self).__name__} has no supernet yet: call '
                'prepare_from_supernet(model, demo_input=...) first'
            )
        return self._supernet

    @property
    def channel_groups(self) -> dict[str, ChannelGroup]:
        """All groups by ``space_id``, pinned ones included, in order of execution."""
        return self.supernet.groups

    @abc.abstractmethod
    def sample_subnet(self) -> Subnet:
        """A random subnet; nothing is set."""

    @abc.abstractmethod
    def set_min_channel(self) -> None:
        """Set the smallest subnet of the search space."""

    def set_subnet(self, subnet: Mapping[str, torch.Tensor]) -> None:
        """Run the supernet as ``subnet`` from now on.

        Raises:
            SubnetError: It does not fit the supernet; nothing is changed then.
        """
        self.supernet.set_alive(self.supernet.alive_of(subnet))

    def subnet_of_counts(self, counts: Mapping[str, int]) -> Subnet:
        """The subnet that keeps about ``counts[space_id]`` channels of each group.

        ``importance`` says which; ``round_to`` and the constraints of a group may round the count.

        Raises:
            InputError: A group has no count, or none that is a whole number.
        """
        counts = checked_counts(counts, self.supernet.prunable_groups)
        alive = np.ones(self.supernet.size, bool)
        for space_id, group in self.supernet.prunable_groups.items():
            alive[group.labels] = self.select(group, self._scores(group), counts[space_id])
        return self.supernet.subnet_of(alive)

    def select(self, group: ChannelGroup, scores: np.ndarray, count: int) -> BoolArray:
        """The valid mask of about ``count`` channels of a group with the highest scores."""
        return select_rounded(group, scores, count, self.round_to)

    def _scores(self, group: ChannelGroup) -> np.ndarray:
        if self.importance is None:
            return -np.arange(group.num_channels, dtype=np.float64)
        return checked_scores(group, self.importance.scores(group, self.supernet.model))

    def comparable_scores(self, group: ChannelGroup) -> np.ndarray:
        """One score per channel, (C,), as those of several groups are compared."""
        made = getattr(self.importance, 'comparable', None)
        return self._scores(group) if made is None else made(self._scores(group))

    # -- data --------------------------------------------------------------------------

    @property
    def needs_data(self) -> bool:
        """Whether ``collect`` must be called before channels are chosen."""
        return callable(getattr(self.importance, 'collect', None))

    def collect(
        self, batches: Iterable[Any], loss_fn: Callable[[nn.Module, Any], torch.Tensor]
    ) -> int:
        """Let an importance that looks at data see batches.

        Args:
            batches: As ``loss_fn`` takes them.
            loss_fn: ``loss_fn(model, batch)`` runs the network on a batch and returns its loss.

        Returns:
            How many batches have been seen in all.

        Raises:
            InputError: The importance looks at no data, or there are no batches.
        """
        if not self.needs_data:
            raise InputError(f'{type(self.importance).__name__} looks at no data')
        return self.importance.collect(self.supernet.model, self.channel_groups, batches, loss_fn)

    # -- subnets -----------------------------------------------------------------------

    def export_subnet(self) -> dict[str, Any]:
        """The channel config of the subnet that is set."""
        self.supernet.follow_replaced()
        cfg = write_cfg(self.supernet, self.supernet.alive)
        self._exported = Exported(self.supernet, cfg, self.supernet.alive)
        return cfg

    def cost(
        self,
        subnet: Mapping[str, torch.Tensor] | None = None,
        columns: Sequence[str] = ('macs', 'params'),
    ) -> dict[str, int]:
        """What a subnet costs, in closed form, at the shape of the whole demo batch.

        Args:
            subnet: The subnet; the one that is set if None.
            columns: Any of ``macs``, ``params``; in bytes ``activations``, ``traffic``, ``peak``.
        """
        prepared = self.supernet
        alive = prepared.alive if subnet is None else prepared.alive_of(subnet)
        return prepared.cost_table.of(alive, columns)

    def cost_table(self) -> CostTable:
        """The costs of many subnets at once, or differentiable, by the widths of their groups."""
        return self.supernet.cost_table
