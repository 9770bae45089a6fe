"""Try a prepared network on a random subnet, and find the module to blame if it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Labelling
from mmprune.channels.constraints import BoolArray
from mmprune.channels.held import is_child, is_inside
from mmprune.channels.labels import Size
from mmprune.channels.propagate import ESCAPES, ORDERS
from mmprune.deploy.verify import tolerance_in_float64, tolerance_of
from mmprune.execution.observed_run import (
    first_difference,
    observed_run,
    relative_error,
    restored,
)
from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.trace.copies import Contents
from mmprune.trace.roads import Road


@dataclass(frozen=True)
class Failure:
    """A trial that went wrong.

    Attributes:
        module: The innermost module that failed, or the first whose output differs.
        problem: What happened.
        error: By how much its outputs differ, if it ran and only gave other numbers; else 0.
        road: The road that it happened on.
    """

    module: str
    problem: str
    error: float = 0.0
    road: str = ''


def random_alive(
    groups: Mapping[str, ChannelGroup],
    size: int,
    seed: int | Sequence[int],
    low: float = 0.3,
    high: float = 0.8,
) -> BoolArray:
    """A random subnet whose groups keep different shares of their channels, any of them."""
    random = np.random.default_rng(seed)
    alive = np.ones(size, bool)
    for group in groups.values():
        if group.prunable:
            count = max(1, round(group.num_channels * random.uniform(low, high)))
            alive[group.labels] = group.select(random.random(group.num_channels), count)
    return alive


def smaller_roads(road: Road) -> Iterator[Road]:
    """Parts of the images for a trial, if they stay large; most networks take any size.

    A subnet that runs right on one does not show less than on the full ones, for a tenth or a fifth
    of the work. Below 64 pixels a network may have single pixels, whose norms are nothing. Sizes
    stay multiples of what networks that halve their images again and again need.
    """
    images = road.input
    if not isinstance(images, torch.Tensor) or images.ndim < 4:
        return
    if any(size < 128 or size % 32 for size in images.shape[-2:]):
        return
    units = [(size, math.gcd(size, 64)) for size in images.shape[-2:]]
    parts = [tuple(unit * math.ceil(size / share / unit) for size, unit in units)
             for share in (4, 3)]  # fmt: skip
    for height, width in dict.fromkeys(parts):
        yield replace(road, input=images[..., :height, :width].contiguous())


def compare_executions(
    model: nn.Module,
    road: Road,
    set_mode: Mapping[str, Callable[[], None]],
    contents: Contents,
    types: Iterable[torch.dtype] = (),
) -> Failure | None:
    """Run the subnet that is set sliced and masked; the two computations share little.

    They run on smaller images first, and on the demo input if that does not work. A difference
    that float64 does not show, or that shrinks in it as rounding does, is rounding.

    Args:
        model: The supernet.
        road: What it is run on.
        set_mode: Mode -> a callable that sets the subnet in this mode.
        contents: See ``untouched``.
        types: What operations of the model give, whatever type its weights have.
    """
    tolerance = tolerance_of(model, types)
    run = partial(_runs, model, set_mode=set_mode, contents=contents)
    for small in smaller_roads(road):
        if not run(small, tolerance=tolerance, observe=False, is_proof=True):
            return None
    failure = run(road, tolerance=tolerance, observe=False)
    if failure is None:
        return None
    if failure.error and is_rounded(model):
        with in_float64(model):
            precise = tolerance_in_float64(failure.error)
            if run(float64_input(road), tolerance=precise, observe=False, contents=None) is None:
                return None
    # Hooks may switch a fused kernel off that has failed; the failure is one all the same.
    return run(road, tolerance=tolerance, observe=True) or failure


def _runs(
    model: nn.Module,
    road: Road,
    set_mode: Mapping[str, Callable[[], None]],
    contents: Contents | None,
    tolerance: float,
    observe: bool,
    is_proof: bool = False,
) -> Failure | None:
    """Compare the runs; to ``observe`` them costs time and memory, and says where they part.

    Outputs that are not finite say nothing: as a proof that is not enough.
    """
    recorded = {}
    for mode, switch in set_mode.items():
        switch()
        with restored(model, road, contents):
            outputs, recorder, problem = observed_run(model, road, observe)
        if problem:
            where = recorder.running[-1] if recorder.running else ''
            return Failure(where, problem, road=road.name)
        recorded[mode] = (outputs, recorder)
    (sliced, first), (masked, second) = recorded.values()
    if not all(torch.isfinite(t).all() for t in sliced if t.is_floating_point()):
        return Failure('', 'the outputs are not finite') if is_proof else None
    errors = [relative_error(a, b) for a, b in zip(sliced, masked, strict=True)]
    if max(errors, default=0.0) <= tolerance:
        return None
    where = first_difference(first, second, tolerance)
    problem = f'sliced and masked outputs differ by {max(errors):.1e}'
    return Failure(where, problem, max(errors), road.name)


def blame(
    failure: Failure,
    labelling: Labelling,
    prunable: BoolArray,
    kinds: Mapping[str, type],
    tried: Collection[tuple[str, str]],
) -> dict[tuple[str, str], str]:
    """What to hold on to, so that a failure cannot happen again.

    Walks from the failing module outward, to one that was given a number of unknown origin for
    the size of a dim, then to one that cuts or views channels by number, whose dims are pinned; at
    last to one that channels pass through. All modules of its class are taken to do the same.

    Args:
        failure: What failed.
        labelling: What was tried.
        prunable: Labels that may be dropped, (num_labels,).
        kinds: Class of every module, by name.
        tried: What is held already.

    Returns:
        (module, what is held, see ``Wishes.broken``) -> reason; empty if nothing is left.
    """
    chain = [failure.module]
    while chain[-1]:
        chain.append(chain[-1].rpartition('.')[0])
    search = partial(_sizes_to_hold, failure, labelling, prunable, kinds)
    # Shapes that do not fit say more of sizes than of values that leave the graph.
    found = {} if failure.error else search(chain, ('unknown',))
    if found:
        return found
    if labelling.has_escapes and ESCAPES not in tried:
        return {ESCAPES: 'used outside of the autograd graph'}
    if labelling.arrangements and ORDERS not in tried:
        return {ORDERS: 'kept channels stand in the order of the full network'}
    found = search(chain, ('unknown', 'own', 'passed', 'inside'))
    if found:
        return found
    for name in chain:
        owned = [t for t in labelling.tensors if is_inside(t.rpartition('.')[0], name)]
        factors = [factor for tensor in owned for factor in labelling.tensors[tensor]]
        if any(prunable[factor[factor >= 0]].any() for factor in factors):
            reason = f'subnets fail in {name or "the root module"} ({failure.problem[:120]})'
            return {(name, 'layers'): reason}
    return {}


def _sizes_to_hold(
    failure: Failure,
    labelling: Labelling,
    prunable: BoolArray,
    kinds: Mapping[str, type],
    chain: list[str],
    ways: Iterable[str],
) -> dict[tuple[str, str], str]:
    """The first of ``ways`` to hold sizes of a module of ``chain`` that may help."""
    for what in ways:
        known = labelling.unknown_sizes if what == 'unknown' else labelling.sizes
        for name in chain:
            sizes = [size for size in known if _is_at(size.module, name, what)]
            own = what in ('own', 'unknown')
            if any((size.own is own or what == 'inside') and _shrinks(size, prunable)
                   for size in sizes):  # fmt: skip
                kind = kinds.get(name)
                same = [n for n, k in kinds.items() if k is kind] if name else [name]
                return {
                    (n, what): f'{kind.__name__ if kind else n} {n or "(root)"} reads sizes that '
                    f'mmprune does not mend ({failure.problem[:120]})'
                    for n in (same if own else [name])
                }
    return {}


def _is_at(module: str, name: str, what: str) -> bool:
    """Whether a dim that ``module`` met is one that module ``name`` may know the size of."""
    if what == 'inside':
        return is_child(module, name)
    return module == name


def _shrinks(size: Size, prunable: BoolArray) -> bool:
    return any(prunable[f[f >= 0]].any() for f in size.factors)
