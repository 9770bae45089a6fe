"""One call each: prune a network, save it and load it, or make a supernet of it.

All of it is the pruners', put together for the case that needs no config.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mmprune.building import options_of
from mmprune.compensation import CompensationReport, batches_of, run_inputs
from mmprune.deploy import VerifyReport
from mmprune.errors import InputError, alternatives, in_words, listed
from mmprune.execution import release
from mmprune.formats import read_one_file, write_one_file
from mmprune.pruners import ImportancePruner, RatioPruner
from mmprune.pruners.budget import UNITS, about_macs
from mmprune.registry import PRUNERS
from mmprune.report.findings import Findings, find
from mmprune.trace.tracer import DemoInput
from mmprune.wrappers import unwrap

LISTED = 40
"""Groups that a printed result lists before it only counts."""


@dataclass(frozen=True, repr=False)
class Pruned:
    """A smaller network, and what was done to get it.

    Attributes:
        network: The small network: plain modules of the same classes, with storage of their own.
        channel_cfg: Which channels of the original it has.
        verified: The proof that it computes what the original with these channels does.
        before: The original's costs: ``macs`` (of the whole demo input), ``params``, and
            ``latency`` if there was a limit of it.
        after: The small network's.
        findings: All channel groups, how many channels each has kept, and why some are whole.
        compensation: Which layers have other weights than they were cut with; None for no layer.
    """

    network: nn.Module
    channel_cfg: Mapping[str, Any]
    verified: VerifyReport
    before: Mapping[str, float]
    after: Mapping[str, float]
    findings: Findings
    compensation: CompensationReport | None = None

    def __str__(self) -> str:
        found = self.findings
        groups = list(zip(found.groups, found.kept, strict=True))
        rows = [(g.space_id, f'{kept} of {g.num_channels}') for g, kept in groups if g.prunable]
        width = max((len(name) for name, _ in rows[:LISTED]), default=0)
        lines = [found.model]
        for name, full in self.before.items():
            left, form = self.after[name], ',.0f' if full >= 100 else '.4g'
            share = left / full if full else 1
            lines.append(f'  {UNITS[name]}: {full:{form}} -> {left:{form}} ({share:.1%})')
        lines.append('channels that are left, by the layer that makes them first')
        lines += [f'  {name:<{width}}  {kept}' for name, kept in rows[:LISTED]]
        if len(rows) > LISTED:
            lines.append(f'  and {len(rows) - LISTED} groups more')
        if not rows:
            lines.append('  nothing can be pruned')
        if found.pinned:
            lines.append('whole, and why')
        for pinned in found.pinned:
            lines.append(f'  {listed(pinned.groups, 3)}: {_own_words(pinned.reason)}')
        lines.append(str(self.verified))
        return '\n'.join([*lines, str(self.compensation)] if self.compensation else lines)

    __repr__ = __str__


def prune(
    network: nn.Module,
    demo_input: DemoInput,
    *,
    ratio: float | Mapping[str, float] | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    latency_of: Any = None,
    importance: Any = None,
    data: Iterable[Any] | None = None,
    loss_fn: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    compensation: Any = 'LeastSquares',
    round_to: int = 1,
    keep: str | Sequence[str] = (),
    **options: Any,
) -> Pruned:
    """Remove the channels that matter least, and prove that what is left computes the same.

    Args:
        network: Any module. It stays as it is.
        demo_input: What it is run on once to be understood: a tensor, a tuple of arguments, a
            dict of keywords, or a ``callable(network) -> outputs``.
        ratio: The share of its channels that each group keeps on average, or shares by pattern
            of layer names. Give this or limits.
        macs: The most that the small network may cost, at the shape of the demo input: a share
            of the original's MACs up to 1, or their number.
        params: The same in parameters. Several limits hold together.
        latency: The same as ``latency_of`` tells it.
        latency_of: A file that ``tools/latency.py`` has written, or a function of (pruner,
            subnet).
        importance: Which channels matter, as ``ImportancePruner`` takes it.
        data: Batches of what the network is for. With them the small network gets weights that
            make up for what was removed, and an importance that looks at data sees them.
        loss_fn: ``loss_fn(network, batch)`` runs the network and returns the loss. By default
            batches are ``(inputs, labels)`` for a cross entropy, or dicts of keywords for a
            network that returns an object with a ``loss``. An importance that looks at
            activations takes batches of inputs alone.
        compensation: Name or config in ``COMPENSATIONS`` of how the small network is given other
            weights, if there are ``data``; None leaves the weights that it was cut with.
        round_to: Every group keeps a multiple of this many channels, or all.
        keep: Layers, or modules with all in them, whose output channels stay.
        **options: Further ones of ``ImportancePruner``, ``scope`` and ``max_removed`` among them.

    Raises:
        InputError: An option makes no sense or cannot be met, or the small network computes
            something else. The network is as it was.
    """
    limits = dict(macs=macs, params=params, latency=latency)
    budget = {name: limit for name, limit in limits.items() if limit is not None}
    _refuse_unknown(options, prune, ImportancePruner)
    _check_limits(budget, ratio, latency_of)
    pruner = _prepared(
        ImportancePruner,
        network,
        demo_input,
        keep,
        ratio=ratio,
        budget=budget or None,
        latency=latency_of,
        importance=importance,
        round_to=round_to,
        **options,
    )
    try:
        before = _costs(pruner)
        batches = None if data is None else batches_of(data)
        if pruner.needs_data:
            if batches is None:
                raise InputError(
                    f'{type(pruner.importance).__name__} looks at data: give data=<batches>, such '
                    'as a list of (inputs, labels)'
                )
            pruner.collect(batches, loss_fn or _default_loss)
        subnet = pruner.prune()
        verified = pruner.verify_subnet(subnet=subnet)
        if not verified.ok:
            raise InputError(f'the small network would not compute the same. {verified}')
        channel_cfg = pruner.export_subnet()
        small = pruner.deploy_subnet(pruner.supernet.model, channel_cfg)
        found, after, report = find(pruner.supernet), _costs(pruner), None
        if batches is not None and compensation is not None:
            run = loss_fn or run_inputs
            with in_words(_own_words):
                report = pruner.compensate(small, batches, compensation, channel_cfg, run)
        return Pruned(small, channel_cfg, verified, before, after, found, report)
    finally:
        release(pruner.supernet.model)


def make_supernet(
    network: nn.Module,
    demo_input: DemoInput,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    importance: Any = None,
    round_to: int = 1,
    keep: str | Sequence[str] = (),
    **options: Any,
) -> RatioPruner:
    """Make the network itself one whose width can be switched, and return what switches it.

    Args:
        network: Any module; its forward passes run at the width that is set from now on.
        demo_input: As in :func:`prune`.
        ratios: Shares of channels that ``sample_subnet`` draws from.
        importance: Which channels stay; by default the first ones, as in slimmable networks.
        round_to: As in :func:`prune`.
        keep: As in :func:`prune`.
        **options: Further ones of ``RatioPruner``, ``execution`` among them.

    Raises:
        InputError: An option makes no sense.
    """
    _refuse_unknown(options, make_supernet, RatioPruner)
    return _prepared(
        RatioPruner,
        network,
        demo_input,
        keep,
        ratios=ratios,
        importance=importance,
        round_to=round_to,
        **options,
    )


def save(result: Pruned, file: str | os.PathLike[str]) -> None:
    """Write a pruned network into one file, all or nothing.

    Args:
        result: What :func:`prune` has returned. Its network may have been trained since, or be
            another with the same layers: ``dataclasses.replace(result, network=averaged)``.
        file: The file; one that is there is replaced.

    Raises:
        InputError: ``result`` is something else.
    """
    if not isinstance(result, Pruned):
        raise InputError(
            f'mmprune.save takes what mmprune.prune returns, not a {type(result).__name__}: the '
            'file says which channels there are, and a network alone does not'
        )
    write_one_file(file, unwrap(result.network), result.channel_cfg, result.findings.model)


def load(file: str | os.PathLike[str], network: nn.Module) -> nn.Module:
    """Build the small network of a file from the original one; no code of the file is run.

    Args:
        file: What :func:`save` has written.
        network: The original at its full width; its weights do not matter. It stays as it is.

    Returns:
        The small network with the weights of the file, in the types and on the device of
        ``network``.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is broken, or of another network.
    """
    return read_one_file(file).build(unwrap(network))


def _prepared(
    kind: type, network: nn.Module, demo_input: DemoInput, keep: str | Sequence[str], **options: Any
) -> Any:
    """A pruner that has traced the network."""
    names = list(keep) if isinstance(keep, list | tuple | set) else [keep]
    config = dict(options, _scope_='mmprune', type=kind.__name__, except_start_keys=names)
    with in_words(_own_words):
        pruner = PRUNERS.build(config)
        pruner.prepare_from_supernet(network, demo_input)
    if all(layer.outputs is None for layer in pruner.supernet.layers.values()):
        raise InputError(
            f'{type(network).__name__}: has no layer with output channels of its own, such as a '
            'convolution or a linear layer, so that nothing can be pruned'
        )
    return pruner


def _own_words(text: str) -> str:
    """A message of the pruners, by the names that options have here."""
    return text.replace('except_start_keys', 'keep').replace('forward=lambda', 'loss_fn=lambda')


def _check_limits(budget: Mapping[str, Any], ratio: Any, latency_of: Any) -> None:
    """Refuse limits that are none, before anything is traced."""
    if (ratio is None) == (not budget):
        raise InputError(
            'how small? Give ratio=<share of the channels to keep>, or limits: some of macs=, '
            'params= and latency=, each a share of what the network costs or a number'
        )
    for name, limit in budget.items():
        limit = limit.item() if isinstance(limit, np.generic) else limit
        is_number = type(limit) in (int, float) and math.isfinite(limit)
        whole = name == 'latency' or not is_number or limit <= 1 or limit == int(limit)
        if not is_number or not limit > 0 or not whole:
            raise InputError(
                f'{name}={limit!r}: up to 1 a limit is a share of what the network costs, above 0; '
                f'above 1 it is a number of {UNITS[name]}'
                + ('; a table or a function is given as latency_of=' if name == 'latency' else '')
            )
    if ('latency' in budget) != (latency_of is not None):
        raise InputError(
            'latency=<limit> and latency_of=<file of tools/latency.py, or a function> belong '
            f'together; got latency={budget.get("latency")}, latency_of={latency_of}'
        )


def _costs(pruner: ImportancePruner) -> dict[str, float]:
    """What the width that is set costs."""
    found: dict[str, float] = dict(pruner.cost())
    if pruner.latency is not None:
        found['latency'] = pruner.measured_latency(pruner.current_subnet())
    return found


def _refuse_unknown(options: Mapping[str, Any], function: Callable[..., Any], kind: type) -> None:
    """Refuse options that neither a function of this module nor its pruner has."""
    own = list(inspect.signature(function).parameters)[2:-1]
    others = (*own, 'budget', 'except_start_keys')
    known = [*own, *(name for name in options_of(kind)[0] if name not in others)]
    for name in (name for name in options if name not in known):
        raise InputError(
            f'mmprune.{function.__name__} has no option {name!r}{about_macs([name])}; '
            f'{alternatives(name, known)}'
        )


def _default_loss(network: nn.Module, batch: Any) -> torch.Tensor:
    """The loss of a classifier, or the one that the network returns itself."""
    if isinstance(batch, Mapping):
        outputs = network(**batch)
        is_dict = isinstance(outputs, Mapping) and 'loss' in outputs
        return outputs['loss'] if is_dict else getattr(outputs, 'loss', outputs)
    if not isinstance(batch, list | tuple):
        return network(batch)
    _, *labels = batch
    outputs = run_inputs(network, batch) if len(labels) == 1 else None
    label = labels[0] if isinstance(outputs, torch.Tensor) else None
    if isinstance(label, torch.Tensor) and not label.is_floating_point():
        return F.cross_entropy(cast(torch.Tensor, outputs), label)
    kinds = [str(getattr(part, 'dtype', type(part).__name__)) for part in labels]
    raise InputError(
        'give loss_fn=<function of (network, batch)>: the default is the cross entropy of a tensor '
        'and whole numbers, of batches (inputs, labels); beside the inputs batches have '
        f'{listed(kinds, 3) or "nothing"}'
        + (f', and the network returns a {type(outputs).__name__}' if outputs is not None else '')
    )
