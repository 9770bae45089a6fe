"""Channel groups: channels that are one decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmprune.channels.constraints import BoolArray, EqualBlocks, select
from mmprune.channels.labels import HIDDEN, EqualCounts, IntArray, Site
from mmprune.channels.propagate import Labelling
from mmprune.errors import InputError


@dataclass(frozen=True)
class Member:
    """Dims of one tensor that a group indexes.

    Attributes:
        tensor: Name of a parameter or buffer.
        dims: The dims that the labels vary along; two for a grouped convolution's inputs.
        index: Channel number at every position of those dims, -1 for other groups' channels.
    """

    tensor: str
    dims: tuple[int, ...]
    index: IntArray


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of one network that are decided together.

    Attributes:
        space_id: Stable name, taken from the layer that makes the channels first.
        labels: Canonical label of every channel, (C,).
        layers: Layers whose outputs these are, norms included, in order of execution.
        consumers: Layers that read them.
        members: Tensor dims to cut.
        constraints: What a mask must obey beyond its length.
        reason: Why the group is pinned; empty if it can be pruned.
    """

    space_id: str
    labels: IntArray
    layers: tuple[str, ...]
    consumers: tuple[str, ...]
    members: tuple[Member, ...]
    constraints: tuple[EqualBlocks, ...]
    reason: str

    @property
    def num_channels(self) -> int:
        """How many channels the full group has."""
        return len(self.labels)

    @property
    def prunable(self) -> bool:
        """Whether any channel may be removed."""
        return not self.reason

    def select(self, scores: np.ndarray, count: int) -> BoolArray:
        """The valid mask of about ``count`` channels with the highest scores, see ``select``.

        Raises:
            InputError: There is not one finite score per channel.
        """
        if scores.shape != (self.num_channels,):
            raise InputError(
                f"group '{self.space_id}': {self.num_channels} channels need as many scores, but "
                f'these are of shape {scores.shape}'
            )
        try:
            return select(scores, count, self.constraints)
        except InputError as error:
            raise InputError(f"group '{self.space_id}': {error}") from error

    def problem_with(self, mask: BoolArray) -> str:
        """Why ``mask`` is no valid choice for this group; empty if it is one."""
        if mask.shape != (self.num_channels,):
            return f'has {mask.size} channels, the group has {self.num_channels}'
        if not mask.any():
            return f'keeps 0 of {self.num_channels} channels; at least 1 must stay'
        if not self.prunable and not mask.all():
            return f'removes {int((~mask).sum())} channels of a pinned group ({self.reason})'
        for constraint in self.constraints:
            if not constraint.holds(mask):
                counts = np.unique(constraint.counts(mask))
                return (
                    f'keeps between {counts[0]} and {counts[-1]} channels in '
                    f'{len(constraint.blocks)} blocks that must keep equally many, and at least '
                    f'one ({constraint.reason})'
                )
        return ''

    def __str__(self) -> str:
        state = 'prunable' if self.prunable else f'pinned: {self.reason}'
        return (
            f'{self.space_id}: {self.num_channels} channels, {len(self.members)} members, {state}'
        )


def build_groups(labelling: Labelling) -> dict[str, ChannelGroup]:
    """Sort the labels of a network into groups, by what tensors and positions they index.

    Channels with the same members form a group, and so do channels that a constraint
    couples. Groups come in order of execution.
    """
    constraints = independent(labelling.constraints)
    reason_of, reasons = _pinned(labelling, constraints)
    signature = _signatures(labelling)
    used = signature != 0
    hidden = np.array([reason in HIDDEN for reason in reasons] + [False])[reason_of]
    used &= ~hidden
    _, group_of = np.unique(
        np.stack([signature, reason_of.astype(np.uint64)]), axis=1, return_inverse=True
    )
    group_of = group_of.ravel()
    group_of = _couple(group_of, constraints)
    by_group: dict[int, list[EqualCounts]] = {}
    for constraint in constraints:
        if constraint.rows.min() >= 0:
            by_group.setdefault(int(group_of[constraint.rows[0, 0]]), []).append(constraint)
    group_of[~used] = -1
    leaders = _leaders(group_of, labelling)
    members = _Members(labelling, group_of)
    groups = {}
    for space_id, group, labels in leaders:
        why = reasons[reason_of[labels[0]]] if reason_of[labels[0]] >= 0 else ''
        if not why and len(labels) == 1:
            why = 'all of its channels depend on each other'
        groups[space_id] = ChannelGroup(
            space_id=space_id,
            labels=labels,
            layers=members.layers(group, 'out'),
            consumers=members.layers(group, 'in'),
            members=members.of(group, labels),
            constraints=_constraints_of(labels, by_group.get(group, [])),
            reason=why,
        )
    return groups


def _pinned(labelling: Labelling, constraints: list[EqualCounts]) -> tuple[IntArray, list[str]]:
    """Number of the first reason for pinning each label (-1: none), and the reasons."""
    reason_of = np.full(labelling.num_labels, -1)
    reasons: list[str] = []
    for labels, reason in labelling.pins:
        free = labels[reason_of[labels] < 0]
        if len(free):
            if reason not in reasons:
                reasons.append(reason)
            reason_of[free] = reasons.index(reason)
    changed = True
    while changed:
        changed = False
        for constraint in constraints:
            labels = np.unique(constraint.rows)
            known = labels[labels >= 0]
            open_ = known[reason_of[known] < 0]
            if len(open_) and len(open_) < len(labels):
                reason = f'{constraint.reason}, some of which cannot be pruned'
                if reason not in reasons:
                    reasons.append(reason)
                reason_of[open_] = reasons.index(reason)
                changed = True
    return reason_of, reasons


def _signatures(labelling: Labelling) -> np.ndarray:
    """A number per label that says which tensor dims it indexes, and how often; 0: none."""
    random = np.random.default_rng(0)
    signature = np.zeros(labelling.num_labels, np.uint64)
    for factors in labelling.tensors.values():
        for factor in factors:
            weight = random.integers(1, 2**63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            np.add.at(signature, factor[factor >= 0], weight)
    return signature


def _couple(group_of: IntArray, constraints: list[EqualCounts]) -> IntArray:
    """Make one group of all groups that a constraint couples."""
    group_of = group_of.copy()
    for constraint in constraints:
        labels = np.unique(constraint.rows)
        touched = np.unique(group_of[labels[labels >= 0]])
        if len(touched) > 1:
            group_of[np.isin(group_of, touched)] = touched[0]
    return group_of


def _leaders(group_of: IntArray, labelling: Labelling) -> list[tuple[str, int, IntArray]]:
    """(space_id, group, its labels in order), in order of execution."""
    tensors = [
        Site(name, 'tensor', np.unique(factor[factor >= 0]), 0)
        for name, factors in labelling.tensors.items()
        for factor in factors
    ]
    outputs = [site for site in labelling.sites if site.role == 'out']
    norms = [site for site in labelling.sites if site.role == 'norm']
    found: dict[int, tuple[str, list[int]]] = {}
    per_name: dict[str, list[int]] = {}
    for site in [*outputs, *norms, *tensors]:
        labels = site.labels[site.labels >= 0]
        _, first = np.unique(labels, return_index=True)
        labels = labels[np.sort(first)]
        for group in dict.fromkeys(group_of[labels].tolist()):
            if group < 0:
                continue
            if group not in found:
                found[group] = (site.layer, [])
                per_name.setdefault(site.layer, []).append(group)
            found[group][1].extend(labels[group_of[labels] == group].tolist())
    result = []
    for group, (name, ordered) in found.items():
        siblings = per_name[name]
        space_id = name if len(siblings) == 1 else f'{name}#{siblings.index(group)}'
        result.append((space_id, group, np.array(list(dict.fromkeys(ordered)))))
    return result


class _Members:
    """Which tensors and layers each group touches."""

    def __init__(self, labelling: Labelling, group_of: IntArray) -> None:
        self.found: dict[int, list[tuple[str, IntArray]]] = {}
        for name, factors in labelling.tensors.items():
            for factor in factors:
                for group in np.unique(group_of[factor[factor >= 0]]):
                    self.found.setdefault(int(group), []).append((name, factor))
        self.sites: dict[tuple[int, str], dict[str, None]] = {}
        for site in labelling.sites:
            role = 'in' if site.role == 'in' else 'out'
            for group in np.unique(group_of[site.labels[site.labels >= 0]]):
                self.sites.setdefault((int(group), role), {}).setdefault(site.layer)
        self.num_labels = labelling.num_labels

    def layers(self, group: int, role: str) -> tuple[str, ...]:
        return tuple(self.sites.get((group, role), ()))

    def of(self, group: int, labels: IntArray) -> tuple[Member, ...]:
        channel = np.full(self.num_labels + 1, -1)
        channel[labels] = np.arange(len(labels))
        members = []
        for name, factor in self.found.get(group, ()):
            dims = tuple(dim for dim, size in enumerate(factor.shape) if size > 1)
            members.append(Member(name, dims, channel[np.maximum(factor, -1)].squeeze()))
        return tuple(members)


def _constraints_of(labels: IntArray, constraints: list[EqualCounts]) -> tuple[EqualBlocks, ...]:
    """The constraints on these labels, as channel numbers of their group."""
    if not constraints:
        return ()
    channel = np.full(max(int(labels.max()), *(int(c.rows.max()) for c in constraints)) + 1, -1)
    channel[labels] = np.arange(len(labels))
    found = []
    for constraint in constraints:
        rows = channel[constraint.rows]
        if constraint.rows.min() >= 0 and rows.min() >= 0:
            found.append(EqualBlocks(rows, constraint.reason))
    return tuple(found)


def independent(constraints: list[EqualCounts]) -> list[EqualCounts]:
    """The constraints that say something the others do not.

    Each once, and none whose rows are made up of the rows of finer ones, the same number
    of each in every row.
    """
    unique: dict[tuple[tuple[int, ...], bytes], EqualCounts] = {}
    for constraint in constraints:
        rows = np.unique(np.sort(constraint.rows, axis=1), axis=0)
        if len(rows) > 1:
            key = (rows.shape, rows.tobytes())
            unique.setdefault(key, EqualCounts(rows, constraint.reason))
    candidates = sorted(unique.values(), key=lambda c: -c.rows.shape[1])
    kept: list[EqualCounts] = []
    for position, constraint in enumerate(candidates):
        if not _is_implied(constraint, candidates[position + 1 :]):
            kept.append(constraint)
    return kept


def _is_implied(coarse: EqualCounts, finer: list[EqualCounts]) -> bool:
    if coarse.rows.min() < 0 or len(np.unique(coarse.rows)) < coarse.rows.size:
        return False
    row_of = np.full(int(coarse.rows.max()) + 1, -1)
    row_of[coarse.rows] = np.arange(len(coarse.rows))[:, None]
    covered = np.zeros(len(row_of), bool)
    for fine in finer:
        rows = fine.rows
        if rows.min() < 0 or rows.max() >= len(row_of) or len(np.unique(rows)) < rows.size:
            continue
        owners = row_of[rows]
        inside = owners.min() >= 0 and (owners == owners[:, :1]).all()
        if not inside or covered[rows].any():
            continue
        per_row = np.bincount(owners[:, 0], minlength=len(coarse.rows))
        if (per_row == per_row[0]).all():
            covered[rows] = True
    return bool(covered[coarse.rows].all())
