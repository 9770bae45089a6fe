"""Which layers share channels, as lists of names; and pruning restricted to such lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.datafiles import read_data, write_data
from mmprune.errors import InputError
from mmprune.schema import checked
from mmprune.trace.kinds import CONVS, NORMS, TRANSPOSED_CONVS

ALL_CONVS = (*CONVS, *TRANSPOSED_CONVS)
LISTS = ('norm_layer_names', 'prec_layers', 'succ_layers')


@dataclass(frozen=True)
class Topology:
    """Who shares channels with whom. The lists run in parallel, one entry per prunable group.

    Attributes:
        norm_layer_names: Norms that share one mask; none where a group has no norm.
        prec_layers: Layers that make these channels, whose outputs a mask cuts.
        succ_layers: Layers that read them, whose inputs it cuts.
        left_out: ``space_id`` -> why, of the prunable groups that were not asked for.
    """

    norm_layer_names: list[list[str]] = field(default_factory=list)
    prec_layers: list[list[str]] = field(default_factory=list)
    succ_layers: list[list[str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, list[list[str]]]:
        """The three lists, as a config takes them: ``topology=dict(...)``."""
        return {name: [list(names) for names in getattr(self, name)] for name in LISTS}

    def save(self, path: str | Path) -> None:
        """Write the three lists, as YAML or JSON by the name; all or nothing."""
        write_data(self.to_dict(), path)

    def __str__(self) -> str:
        lines = []
        for norms, makers, readers in zip(
            self.norm_layer_names, self.prec_layers, self.succ_layers, strict=True
        ):
            lines += [
                f'{", ".join(makers)}',
                f'  norms: {", ".join(norms) or "none"}',
                f'  read by: {", ".join(readers) or "none"}',
            ]
        lines += [f'left out {space_id}: {why}' for space_id, why in self.left_out.items()]
        return '\n'.join(lines)


def topology_of(
    groups: Mapping[str, ChannelGroup], model: nn.Module, leave_out: Iterable[str] = ()
) -> Topology:
    """The topology of the prunable groups.

    Args:
        groups: All groups by ``space_id``.
        model: The network.
        leave_out: Any of ``'strided'`` and ``'grouped'``, see ``Restriction``.
    """
    modules = dict(model.named_modules())
    found = Topology()
    for space_id, group in groups.items():
        if not group.prunable:
            continue
        why = _left_out(group, modules, leave_out)
        why = why or ('' if group.layers else 'no layer makes its channels')
        if why:
            found.left_out[space_id] = why
            continue
        norms = [n for n in group.layers if isinstance(modules.get(n), NORMS)]
        found.norm_layer_names.append(norms)
        found.prec_layers.append([name for name in group.layers if name not in norms])
        found.succ_layers.append(list(group.consumers))
    return found


def read_topology(topology: Topology | Mapping[str, Any] | str | Path) -> tuple[str, Topology]:
    """A topology from its lists or a file of them, and what to call it in messages.

    Raises:
        InputError: It is broken.
    """
    if isinstance(topology, Topology):
        return 'topology', topology
    source = 'topology'
    if isinstance(topology, str | Path):
        source = str(topology)
        topology = read_data(source, 'a topology')
    lists = checked(_Lists, topology, source)
    return source, Topology(lists.norm_layer_names, lists.prec_layers, lists.succ_layers)


@dataclass(frozen=True)
class _Lists:
    """What a file of a topology holds."""

    norm_layer_names: list[list[str]]
    prec_layers: list[list[str]]
    succ_layers: list[list[str]]

    def __post_init__(self) -> None:
        sizes = {name: len(entries) for name, entries in vars(self).items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f'its lists have {sizes} entries; they run in parallel')


class Restriction:
    """Which of the groups that can be pruned a config wants pruned.

    Args:
        topology: The only groups to prune: the lists of ``Topology``, a file of them, or None.
        leave_out: ``'strided'``: no group of which a convolution with a stride makes channels;
            ``'grouped'``: none whose channels a convolution with groups, other than a depthwise
            one, makes or reads.

    Raises:
        InputError: An option is unknown, or the topology is broken.
    """

    def __init__(
        self,
        topology: Topology | Mapping[str, Any] | str | Path | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        self.leave_out = checked_options(leave_out)
        self.source, self.topology = '', None
        if topology is not None:
            self.source, self.topology = read_topology(topology)

    def apply(self, groups: dict[str, ChannelGroup], model: nn.Module) -> dict[str, ChannelGroup]:
        """The groups, with those pinned that are not wanted; the reason says by what."""
        if self.topology is None and not self.leave_out:
            return groups
        modules = dict(model.named_modules())
        result = {}
        for space_id, group in groups.items():
            why = _left_out(group, modules, self.leave_out) if group.prunable else ''
            if not why and group.prunable and not self._is_listed(group):
                why = f'not listed in {self.source}'
            result[space_id] = replace(group, reason=why) if why else group
        return result

    def _is_listed(self, group: ChannelGroup) -> bool:
        own = set(group.layers)
        if self.topology is None:
            return True
        return bool(own) and any(own <= names for names in self._entries())

    def _entries(self) -> list[set[str]]:
        if self.topology is None:
            return []
        pairs = zip(self.topology.norm_layer_names, self.topology.prec_layers, strict=True)
        return [{*norms, *makers} for norms, makers in pairs]

    def check(self, groups: Mapping[str, ChannelGroup]) -> None:
        """Refuse a topology of which an entry is no group of the network.

        Raises:
            InputError: It names an unknown layer, only some layers of a group, or of several.
        """
        known = {name for group in groups.values() for name in group.layers}
        for number, names in enumerate(self._entries()):
            where = f'{self.source}: entry {number}'
            if not names:
                raise InputError(f'{where} names no layer')
            unknown = sorted(names - known)
            if unknown:
                raise InputError(f"{where}: no traced layer '{unknown[0]}' makes channels")
            if any(set(group.layers) == names for group in groups.values()):
                continue
            group = max(groups.values(), key=lambda g: len(names & set(g.layers)))
            missing, foreign = sorted(set(group.layers) - names), sorted(names - set(group.layers))
            problem = f"'{missing[0]}' shares them too" if missing else ''
            problem = problem or f"'{foreign[0]}' does not share them"
            raise InputError(
                f"{where} lists {len(names)} layers, but group '{group.space_id}' has the channels "
                f'of {len(group.layers)}: {problem}'
            )


def checked_options(leave_out: Sequence[str]) -> tuple[str, ...]:
    """The options of what to leave out.

    Raises:
        InputError: One is unknown.
    """
    given = [leave_out] if isinstance(leave_out, str) else leave_out
    names = checked(list[str], given, 'leave_out')
    unknown = [name for name in names if name not in _REASONS]
    if unknown:
        raise InputError(f'leave_out: {unknown[0]!r} is none of {", ".join(_REASONS)}')
    return tuple(names)


def _strided(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> str:
    for name in group.layers:
        module = modules.get(name)
        if isinstance(module, ALL_CONVS) and max(module.stride) > 1:
            stride = 'x'.join(map(str, module.stride))
            return f"left out by 'strided': {name} has stride {stride}"
    return ''


def _grouped(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> str:
    for name in (*group.layers, *group.consumers):
        module = modules.get(name)
        if isinstance(module, ALL_CONVS) and 1 < module.groups < module.in_channels:
            return f"left out by 'grouped': {name} has {module.groups} groups"
    return ''


_REASONS = {'strided': _strided, 'grouped': _grouped}


def _left_out(
    group: ChannelGroup, modules: Mapping[str, nn.Module], leave_out: Iterable[str]
) -> str:
    for name in leave_out:
        why = _REASONS[name](group, modules)
        if why:
            return why
    return ''
