"""The weights of a pruned network that may be solved anew, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from mmprune.deploy import ChannelCfg, cuts_of
from mmprune.errors import InputError
from mmprune.layers import Cut

Use = tuple[int, int]
"""Number of a batch, and of the call among those of one weight in that batch."""


@dataclass(frozen=True)
class Place:
    """Where a constant that is added to a layer's outputs can be put.

    Attributes:
        name: A bias or running mean.
        sign: -1 for a running mean, which is subtracted.
    """

    name: str
    sign: int = 1


@dataclass(frozen=True)
class Target:
    """What a layer gave in the full network in one call, at some positions.

    Attributes:
        positions: Which, (positions,), in random order.
        values: Kept outputs, in the order of the small network, (positions, outputs).
        count: How many positions there were.
    """

    positions: torch.Tensor
    values: torch.Tensor
    count: int


@dataclass(eq=False)
class Unit:
    """One weight, whichever modules call it.

    Attributes:
        name: Of the module that owns it first, or of the parameter if it is no ``weight``.
        full: The weight in the full network.
        small: The weight in the small one.
        cut: How the one was cut from the other.
        kind: Kind of its calls; empty before the first.
        groups: Groups of its calls in the full network.
        outputs: The kept outputs, in the order of the small network.
        loses_inputs: Whether what it reads lost channels.
        is_watched: Whether it is to be solved.
        targets: What it gave in the full network.
        places: Where a constant may go, for each use.
        left: Why its weight must stay; empty if it can be solved.
    """

    name: str
    full: nn.Parameter
    small: nn.Parameter
    cut: Cut
    kind: str = ''
    groups: int = 1
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    loses_inputs: bool = False
    is_watched: bool = False
    targets: dict[Use, Target] = field(default_factory=dict)
    places: dict[Use, Place | None] = field(default_factory=dict)
    left: str = ''

    @property
    def is_used_once(self) -> bool:
        """Whether no batch goes through it twice."""
        return all(use == 0 for _, use in self.targets)

    def called(self, kind: str, groups: int, follows: bool) -> None:
        """Note how the full network calls the weight.

        Args:
            kind: See ``LayerCall``.
            groups: Number of groups.
            follows: Whether it is to be solved whatever it reads.
        """
        if not self.kind:
            self.kind, self.groups = kind, groups
            self.outputs, kept, inputs = _channels(self, kind, groups)
            self.loses_inputs = kept < inputs
            self.is_watched = self.loses_inputs or follows
        elif (self.kind, self.groups) != (kind, groups):
            self.left = 'its weight is used in different ways'


def _channels(unit: Unit, kind: str, groups: int) -> tuple[np.ndarray, int, int]:
    """Kept outputs in their order; the number of kept inputs, and of inputs."""
    rows, columns = unit.full.shape[:2]
    is_turned = kind == 'transposed'  # it has the inputs first
    sizes = (columns * groups, rows) if is_turned else (rows, columns * groups)
    if unit.cut.is_whole:
        return np.arange(sizes[0]), sizes[1], sizes[1]
    row, column = (_numbers_kept(unit, dim) for dim in (0, 1))
    other = row // (rows // groups) * columns + column
    if not is_turned:
        return row[:, 0], len(np.unique(other)), sizes[1]
    # Outputs of several groups keep their order.
    return other[0] if groups == 1 else np.unique(other), len(row), sizes[1]


def _numbers_kept(unit: Unit, dim: int) -> np.ndarray:
    """Where each kept element of the weight's first two dims stood along one of these."""
    shape = unit.full.shape
    numbers = torch.arange(shape[dim], dtype=torch.int32)
    along = numbers.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    kept = unit.cut(along.expand(shape))
    return kept.reshape(*kept.shape[:2], -1)[:, :, 0].long().numpy()


def units_of(full: nn.Module, small: nn.Module, cfg: ChannelCfg) -> list[Unit]:
    """One unit for every weight.

    Raises:
        ChannelCfgError: The config does not fit the full network.
        InputError: The small network is not what the config makes of the full one.
    """
    cuts = cuts_of(full, cfg)
    modules = dict(small.named_modules(remove_duplicate=False))
    units: dict[int, Unit] = {}
    for name, tensor in full.named_parameters(remove_duplicate=False):
        owner, _, local = name.rpartition('.')
        own = modules[owner]._parameters.get(local) if owner in modules else None
        cut = cuts.get(id(tensor))
        shape = tuple(tensor.shape) if cut is None else cut.shape
        if own is None or tuple(own.shape) != shape:
            found = 'is missing' if own is None else f'is {_shown(own.shape)}'
            raise InputError(
                f"'{name}' {found} in the small network; {cfg.source} makes it {_shown(shape)} of "
                f'{_shown(tensor.shape)}: give the network that this config was deployed to'
            )
        if tensor.dim() < 2 or not tensor.is_floating_point():
            continue
        cut = cut or Cut(shape, ())
        if id(tensor) not in units:
            label = owner if local == 'weight' else name
            units[id(tensor)] = Unit(label, tensor, own, cut)
    return list(units.values())


def _shown(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape))


def by_tensor(units: list[Unit], side: str) -> Mapping[int, Unit]:
    """Identity of the weight in the ``'full'`` or ``'small'`` network -> its unit."""
    return {id(getattr(unit, side)): unit for unit in units}
