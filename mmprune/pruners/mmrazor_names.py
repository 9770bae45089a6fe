"""The attributes that MMRazor 0.x's pruners have after preparing, computed from our own data."""

from __future__ import annotations

from ordered_set import OrderedSet
from torch import nn

from mmprune.pruners.prepared import Prepared
from mmprune.supernet.supernet import Supernet

Parent = str | dict[str, list[str]]
"""A layer's name, or ``{'concat': [names]}`` for layers whose outputs are concatenated."""


class MMRazorNames(Prepared):
    """Read-only properties for code that was written against MMRazor 0.x.

    Names are relative to the network, as everywhere. A *non-pass* module makes its own output
    channels (convolution, linear layer). Nothing of mmprune reads these; each is computed anew
    when it is asked for, in time linear in the traced graph but for long residual streams.
    """

    @property
    def name2module(self) -> dict[str, nn.Module]:
        """Name -> module, of all modules that have a ``weight``."""
        modules = self.supernet.model.named_modules()
        return {name: module for name, module in modules if hasattr(module, 'weight')}

    @property
    def module2name(self) -> dict[nn.Module, str]:
        """The inverse of ``name2module``."""
        return {module: name for name, module in self.name2module.items()}

    @property
    def node2parents(self) -> dict[str, list[Parent]]:
        """Non-pass module -> the non-pass modules whose outputs it reads, in order of execution.

        A module behind a concatenation has ``{'concat': [...]}`` among its parents, nested ones
        flattened; one that reads the network's input only has none.
        """
        found: dict[str, list[Parent]] = {}
        for name, entries in _links(self.supernet)[0].items():
            found[name] = [e if isinstance(e, str) else {'concat': list(e)} for e in entries]
        return found

    @property
    def module2group(self) -> dict[str, str]:
        """Non-pass module -> ``space_id``, of the modules whose outputs are one prunable group.

        MMRazor lists only groups of several modules there, under names of its own (``group_3``).
        """
        layers = _non_pass_layers(self.supernet)
        groups: dict[str, list[str]] = {}
        for space_id, group in self.supernet.prunable_groups.items():
            for layer in group.layers:
                if layer in layers:
                    groups.setdefault(layer, []).append(space_id)
        return {layer: found[0] for layer, found in groups.items() if len(found) == 1}

    @property
    def modules_have_child(self) -> OrderedSet[str]:
        """Non-pass modules whose outputs some non-pass module reads, in order of execution."""
        parents, _ = _links(self.supernet)
        read = {name for entries in parents.values() for e in entries for name in _names(e)}
        return OrderedSet(name for name in parents if name in read)

    @property
    def modules_have_ancest(self) -> OrderedSet[str]:
        """Non-pass modules that read outputs of some non-pass module, in order of execution."""
        parents, _ = _links(self.supernet)
        return OrderedSet(name for name, entries in parents.items() if entries)

    @property
    def bn_conv_links(self) -> dict[str, str]:
        """Norm -> the non-pass module that it normalises the outputs of, where that is one."""
        _, normalised = _links(self.supernet)
        return {n: es[0] for n, es in normalised.items() if len(es) == 1 and isinstance(es[0], str)}


_Entry = str | tuple[str, ...]
"""A layer, or the layers of a concatenation."""


_Links = dict[str, tuple[_Entry, ...]]
"""Module -> what it reads."""


def _names(entry: _Entry) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry


def _non_pass_layers(supernet: Supernet) -> set[str]:
    return {name for name, layer in supernet.layers.items() if layer.inputs is not None}


def _links(supernet: Supernet) -> tuple[_Links, _Links]:
    """Carry the names of non-pass modules through the traced graph to those that read them.

    Returns:
        What non-pass modules read, and what norms do.
    """
    layers = _non_pass_layers(supernet)
    sites = supernet.labelling.sites
    makers = {s.node: s.layer for s in sites if s.role == 'out' and s.layer in layers}
    norms = {s.node: s.layer for s in sites if s.role == 'norm'}
    parents, normalised = _Links(), _Links()
    entries: list[tuple[_Entry, ...]] = []
    for node in supernet.graph.nodes:
        read = [entries[edge[0]] for edge in node.inputs if edge is not None]
        merged = tuple(dict.fromkeys(entry for part in read for entry in part))
        if node.op == 'cat' and len(merged) > 1:
            flat = dict.fromkeys(name for entry in merged for name in _names(entry))
            merged = (tuple(flat),)
        if node.id in norms:
            _extend(normalised, norms[node.id], merged)
        if node.id in makers:
            _extend(parents, makers[node.id], merged)
            merged = (makers[node.id],)
        entries.append(merged)
    return parents, normalised


def _extend(found: _Links, name: str, entries: tuple[_Entry, ...]) -> None:
    """Add entries; a module that is called several times has those of all its calls."""
    found[name] = tuple(dict.fromkeys((*found.get(name, ()), *entries)))
