"""Channel groups: channels that are one decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from ordered_set import OrderedSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmprune.channels.arrangement import Arrangement, row_key
from mmprune.channels.constraints import BoolArray, EqualBlocks, Shrinking, as_scores, select
from mmprune.channels.independent import independent
from mmprune.channels.labels import HIDDEN, EqualCounts, IntArray, axes_of
from mmprune.channels.member import Member as Member
from mmprune.channels.propagate import Labelling
from mmprune.errors import InputError


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
        parts: Channels, fewer than all, that a tensor has alone: one of them must stay.
        arrangement: How its channels are shuffled, if they are dealt anew at every width.
        computed: Weights with these channels that layers compute from the members.
        hidden: Members that layers use through those alone.
        sites: Labels along the inputs or outputs of the layers that have any of them.
    """

    space_id: str
    labels: IntArray
    layers: OrderedSet[str]
    consumers: OrderedSet[str]
    members: tuple[Member, ...]
    constraints: tuple[EqualBlocks, ...]
    reason: str
    parts: tuple[tuple[str, IntArray], ...] = ()
    arrangement: Arrangement | None = None
    computed: tuple[Member, ...] = ()
    hidden: frozenset[str] = frozenset()
    sites: tuple[IntArray, ...] = ()

    @cached_property
    def widths(self) -> IntArray:
        """How often each channel is among the inputs or outputs of a layer, (widths, C).

        A row for all layers that have the same; one of ones if there are none.
        """
        order = np.argsort(self.labels)
        rows: dict[bytes, IntArray] = {}
        for labels in {id(labels): labels for labels in self.sites}.values():
            place = np.searchsorted(self.labels, labels, sorter=order).clip(max=len(order) - 1)
            channels = order[place]
            mine = channels[self.labels[channels] == labels]
            row = np.bincount(mine.ravel(), minlength=len(order))
            rows.setdefault(row.tobytes(), row)
        return np.stack(list(rows.values()) or [np.ones(len(order), np.int64)])

    @property
    def used(self) -> tuple[Member, ...]:
        """The tensors that layers use: members, or what is computed from them."""
        if not self.computed:
            return self.members
        return (*(m for m in self.members if m.tensor not in self.hidden), *self.computed)

    @property
    def num_channels(self) -> int:
        """How many channels the full group has."""
        return len(self.labels)

    @property
    def prunable(self) -> bool:
        """Whether any channel may be removed."""
        return not self.reason

    @cached_property
    def _shrinking(self) -> Shrinking:
        return Shrinking.of(self.num_channels, self.constraints)

    def select(self, scores: np.ndarray, count: int) -> BoolArray:
        """The valid mask of about ``count`` channels with the highest scores, see ``select``.

        Raises:
            InputError: There is not one finite score per channel.
        """
        try:
            scores = as_scores(scores, self.num_channels)
            if self.arrangement is not None:
                return self.arrangement.choose(scores, count / len(scores))
            mask = select(scores, count, self._shrinking)
            if self._has_all_parts(mask):
                return mask
            best = {int(part[scores[part].argmax()]) for _, part in self.parts}
            scores[list(best)] += 1 + np.ptp(scores)
            # Where the best of two parts are in one block, a constraint may leave room for one.
            numbers = range(max(count, len(best)), self.num_channels + 1)
            masks = (select(scores, number, self._shrinking) for number in numbers)
            return next(mask for mask in masks if self._has_all_parts(mask))
        except InputError as error:
            raise InputError(f"group '{self.space_id}': {error}") from error

    def _has_all_parts(self, mask: BoolArray) -> bool:
        return all(mask[part].any() for _, part in self.parts)

    def problem_with(self, mask: BoolArray) -> str:
        """Why ``mask`` is no valid choice for this group; empty if it is one."""
        if mask.shape != (self.num_channels,):
            return f'has {mask.size} channels, the group has {self.num_channels}'
        if not mask.any():
            return f'keeps 0 of {self.num_channels} channels; at least 1 must stay'
        if not self.prunable and not mask.all():
            return f'removes {int((~mask).sum())} channels of a pinned group ({self.reason})'
        if self.arrangement is not None and not mask.all():
            problem = self.arrangement.problem_with(mask)
            if problem:
                return problem
        for tensor, part in self.parts:
            if not mask[part].any():
                return f'keeps none of the {len(part)} channels of {tensor}; at least 1 must stay'
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
    # Shuffled channels are one decision, whether or not the other constraints couple all of them.
    shuffled = [EqualCounts(a.labels[None], a.reason) for a in labelling.arrangements]
    arrangement_of = {row_key(np.sort(a.labels)): a for a in labelling.arrangements}
    reason_of, reasons = _pinned(labelling, constraints + shuffled)
    tensors = _Uses([(name, f) for name, factors in labelling.tensors.items() for f in factors])
    group_of = _group_of(labelling, tensors, constraints + shuffled, reason_of, reasons)
    by_group: dict[int, list[EqualCounts]] = {}
    for constraint in constraints:
        if constraint.rows.min() >= 0:
            by_group.setdefault(int(group_of[constraint.rows[0, 0]]), []).append(constraint)
    sites = {
        role: _Uses([(s.layer, s.labels) for s in labelling.sites if s.role in roles])
        for role, roles in {'out': ('out',), 'norm': ('norm',), 'in': ('in',)}.items()
    }
    # What the network itself makes is named after the parameter that makes it.
    named = _Uses([(name, labels) for name, labels in sites['out'].named if name])
    leaders = _leaders(group_of, [named, sites['norm'], tensors])
    makers = _Uses([(s.layer, s.labels) for s in labelling.sites if s.role != 'in'])
    layers, consumers = makers.by_group(group_of), sites['in'].by_group(group_of)
    touched = tensors.by_group(group_of)
    channel_of = np.full(labelling.num_labels + 1, -1)  # the last one is for labels below 0
    arranged = {g: arrangement_of.pop(row_key(np.sort(n)), None) for _, g, n in leaders}
    leaders = [(s, g, n if (a := arranged[g]) is None else a.labels) for s, g, n in leaders]
    for _, _, labels in leaders:
        channel_of[labels] = np.arange(len(labels))
    computed = _computed_members(labelling, group_of, channel_of)
    groups = {}
    for space_id, group, labels in leaders:
        why = reasons[reason_of[labels[0]]] if reason_of[labels[0]] >= 0 else ''
        if not why and len(labels) == 1:
            why = 'all of its channels depend on each other'
        others = [a.reason for a in arrangement_of.values() if np.isin(a.labels, labels).any()]
        if not why and others:
            why = f'{others[0]}, and others with them'
        groups[space_id] = ChannelGroup(
            space_id=space_id,
            labels=labels,
            layers=OrderedSet(name for name, _ in layers.get(group, ()) if name),
            consumers=OrderedSet(name for name, _ in consumers.get(group, ())),
            members=tuple(
                _member(name, factor, group, group_of, channel_of)
                for name, factor in touched.get(group, ())
            ),
            constraints=_constraints_of(channel_of, by_group.get(group, [])),
            reason=why,
            parts=_parts(touched.get(group, ()), group, group_of, channel_of),
            arrangement=arranged[group],
            computed=tuple(computed.get(group, ())),
            hidden=labelling.hidden,
            sites=tuple(
                labels for _, labels in (*layers.get(group, ()), *consumers.get(group, ()))
            ),
        )
    return groups


def _parts(
    touched: Iterable[tuple[str, IntArray]], group: int, group_of: IntArray, channel_of: IntArray
) -> tuple[tuple[str, IntArray], ...]:
    """The parts of a group, by a tensor that would be empty without each."""
    size = int(np.count_nonzero(group_of == group))
    found: dict[bytes, tuple[str, IntArray]] = {}
    for name, factor in touched:
        if factor.size >= size or factor.min() < 0:
            continue
        if (group_of[factor] == group).all():
            channels = np.flatnonzero(np.bincount(channel_of[factor].ravel()))
            if len(channels) < size:
                found.setdefault(channels.tobytes(), (name, channels))
    return tuple(found.values())


class _Uses:
    """Named label arrays, laid end to end so that all of them are looked at in one go."""

    def __init__(self, named: list[tuple[str, IntArray]]) -> None:
        self.named = named
        sizes = [labels.size for _, labels in named]
        flat = np.concatenate([labels.ravel() for _, labels in named] or [np.empty(0, int)])
        owner = np.repeat(np.arange(len(named)), sizes)
        known = flat >= 0
        self.labels, self.owner = flat[known], owner[known]

    def by_group(self, group_of: IntArray) -> dict[int, list[tuple[str, IntArray]]]:
        """Group -> the named arrays in which it has a label, in their order."""
        groups = group_of[self.labels]
        count = len(self.named)
        found: dict[int, list[tuple[str, IntArray]]] = {}
        keys = groups[groups >= 0] * count + self.owner[groups >= 0]
        for key in np.unique(keys[np.diff(keys, prepend=-1) != 0]).tolist():  # runs are long
            found.setdefault(key // count, []).append(self.named[key % count])
        return found


def _group_of(
    labelling: Labelling,
    tensors: _Uses,
    constraints: list[EqualCounts],
    reason_of: IntArray,
    reasons: list[str],
) -> IntArray:
    """Number of the group of every label, and -1 at the end for labels below 0.

    Labels that no tensor has, and those of dims that hold no channels, are in group -1.
    """
    signature = _signatures(labelling, tensors)
    is_hidden = np.array([reason in HIDDEN for reason in reasons] + [False])
    used = np.flatnonzero((signature != 0) & ~is_hidden[reason_of])
    group_of = np.full(labelling.num_labels + 1, -1)
    # The product is odd times a number, so different reasons give different keys.
    key = signature[used] + reason_of[used].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    _, group_of[used] = np.unique(key, return_inverse=True)
    return _couple(group_of, constraints)


def _member(
    name: str, factor: IntArray, group: int, group_of: IntArray, channel_of: IntArray
) -> Member:
    labels = np.maximum(factor.squeeze(), -1)
    channels = np.where(group_of[labels] == group, channel_of[labels], -1)
    return Member(name, axes_of(factor), channels)


def _computed_members(
    labelling: Labelling, group_of: IntArray, channel_of: IntArray
) -> dict[int, list[Member]]:
    """By group, the dims of weights that layers compute."""
    weights = {weight.name: weight for weight, _ in labelling.computed}
    uses = _Uses([(w.name, f) for w, factors in labelling.computed for f in factors])
    return {
        group: [
            replace(_member(name, f, group, group_of, channel_of), computed=weights[name])
            for name, f in found
        ]
        for group, found in uses.by_group(group_of).items()
    }


def _pinned(labelling: Labelling, constraints: list[EqualCounts]) -> tuple[IntArray, list[str]]:
    """Number of the first reason for pinning each label (-1: none), and the reasons."""
    reason_of = np.full(labelling.num_labels, -1)
    reasons: list[str] = []
    for labels, reason in sorted(labelling.pins, key=lambda pin: pin[1] not in HIDDEN):
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


def _signatures(labelling: Labelling, tensors: _Uses) -> np.ndarray:
    """A number per label that says which tensor dims it indexes, and how often; 0: none."""
    random = np.random.default_rng(0)
    weights = random.integers(1, 2**63, size=len(tensors.named), dtype=np.uint64)
    signature = np.zeros(labelling.num_labels, np.uint64)
    np.add.at(signature, tensors.labels, (weights * np.uint64(2) + np.uint64(1))[tensors.owner])
    return signature


def _couple(group_of: IntArray, constraints: list[EqualCounts]) -> IntArray:
    """Make one group of all groups that a constraint couples."""
    first, second = [], []
    for constraint in constraints:
        rows = constraint.rows
        touched = np.unique(group_of[rows[rows >= 0]])
        touched = touched[touched >= 0]
        first.append(touched[:-1])
        second.append(touched[1:])
    if not sum(map(len, first)):
        return group_of
    pairs = np.concatenate(first), np.concatenate(second)
    count = int(group_of.max()) + 1
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    return np.where(group_of < 0, -1, component[group_of])


def _leaders(group_of: IntArray, uses: list[_Uses]) -> list[tuple[str, int, IntArray]]:
    """(space_id, group, its labels in order), in order of execution.

    Args:
        group_of: See ``_group_of``.
        uses: Where labels are met, in the order in which they are to name and sort a group.
    """
    names = [name for use in uses for name, _ in use.named]
    starts = np.cumsum([0, *(len(use.named) for use in uses)])
    labels = np.concatenate([use.labels for use in uses])
    owner = np.concatenate([use.owner + start for use, start in zip(uses, starts, strict=False)])
    first = np.full(len(group_of), len(labels))
    first[labels[::-1]] = np.arange(len(labels))[::-1]  # the last that is written stays
    ordered = np.flatnonzero((group_of >= 0) & (first < len(labels)))
    ordered = ordered[np.argsort(first[ordered])]
    by_group = ordered[np.argsort(group_of[ordered], kind='stable')]
    parts = np.split(by_group, np.flatnonzero(np.diff(group_of[by_group])) + 1)
    parts = sorted((p for p in parts if len(p)), key=lambda part: int(first[part[0]]))
    leaders = [names[owner[first[part[0]]]] for part in parts]
    count, seen = Counter(leaders), Counter[str]()
    result = []
    for name, part in zip(leaders, parts, strict=True):
        space_id = name if count[name] == 1 else f'{name}#{seen[name]}'
        seen[name] += 1
        result.append((space_id, int(group_of[part[0]]), part))
    return result


def _constraints_of(
    channel_of: IntArray, constraints: list[EqualCounts]
) -> tuple[EqualBlocks, ...]:
    """The constraints of one group, as its channel numbers."""
    found = [
        EqualBlocks(channel_of[constraint.rows], constraint.reason) for constraint in constraints
    ]
    return tuple(blocks for blocks in found if blocks.blocks.min() >= 0)
