"""Try a prepared network on a random subnet, and find the module to blame if it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Labelling
from mmprune.channels.constraints import BoolArray
from mmprune.channels.held import is_child, is_inside
from mmprune.channels.labels import Size
from mmprune.channels.propagate import ESCAPES, ORDERS
from mmprune.channels.sizes import unlike_sizes
from mmprune.deploy.verify import TOLERANCE
from mmprune.execution.observed_run import first_difference, observed_run, relative_error
from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.trace.tracer import DemoInput


@dataclass(frozen=True)
class Failure:
    """A trial that went wrong.

    Attributes:
        module: The innermost module that failed, or the first whose output differs.
        problem: What happened.
        is_difference: Whether it ran, and only gave other numbers.
    """

    module: str
    problem: str
    is_difference: bool = False


def random_alive(
    groups: Mapping[str, ChannelGroup], size: int, seed: int, low: float = 0.3, high: float = 0.8
) -> BoolArray:
    """A random subnet whose groups keep different shares of their channels, any of them."""
    random = np.random.default_rng(seed)
    alive = np.ones(size, bool)
    for group in groups.values():
        if group.prunable:
            count = max(1, round(group.num_channels * random.uniform(low, high)))
            alive[group.labels] = group.select(random.random(group.num_channels), count)
    return alive


def smaller_input(demo_input: DemoInput) -> DemoInput | None:
    """A part of the images for a trial, if it stays large; most networks take any size.

    A subnet that runs right on it does not show less than on the full ones, for a fifth of the
    work. Below 64 pixels a network may have single pixels, whose norms are nothing. Sizes stay
    multiples of what networks that halve their images again and again need.
    """
    if not isinstance(demo_input, torch.Tensor) or demo_input.ndim < 4:
        return None
    if any(size < 128 or size % 32 for size in demo_input.shape[-2:]):
        return None
    units = [math.gcd(size, 64) for size in demo_input.shape[-2:]]
    height, width = (
        unit * math.ceil(size / 3 / unit)
        for size, unit in zip(demo_input.shape[-2:], units, strict=True)
    )
    return demo_input[..., :height, :width].contiguous()


def compare_executions(
    model: nn.Module, demo_input: DemoInput, set_mode: Mapping[str, Callable[[], None]]
) -> Failure | None:
    """Run the subnet that is set sliced and masked; the two computations share little.

    They run on smaller images first, and on the demo input if that does not work. A difference
    that float64 does not show is rounding, which tipped a choice.

    Args:
        model: The supernet.
        demo_input: What it is run on.
        set_mode: Mode -> a callable that sets the subnet in this mode.
    """
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-5)
    small = smaller_input(demo_input)
    if small is not None and _runs(model, small, set_mode, tolerance, observe=False) is None:
        return None
    failure = _runs(model, demo_input, set_mode, tolerance, observe=False)
    if failure is None or (failure.is_difference and _is_rounding(model, demo_input, set_mode)):
        return None
    # Hooks may switch a fused kernel off that has failed; the failure is one all the same.
    return _runs(model, demo_input, set_mode, tolerance, observe=True) or failure


def _is_rounding(
    model: nn.Module, demo_input: DemoInput, set_mode: Mapping[str, Callable[[], None]]
) -> bool:
    """Whether the runs agree in float64, which the model is not in."""
    if not is_rounded(model):
        return False
    with in_float64(model):
        precise = float64_input(demo_input)
        return _runs(model, precise, set_mode, TOLERANCE[torch.float64], observe=False) is None


def _runs(
    model: nn.Module,
    demo_input: DemoInput,
    set_mode: Mapping[str, Callable[[], None]],
    tolerance: float,
    observe: bool,
) -> Failure | None:
    """Compare the runs; to ``observe`` them costs time and memory, and says where they part."""
    recorded = {}
    for mode, switch in set_mode.items():
        switch()
        outputs, recorder, problem = observed_run(model, demo_input, observe)
        if problem:
            return Failure(recorder.running[-1] if recorder.running else '', problem)
        recorded[mode] = (outputs, recorder)
    (sliced, first), (masked, second) = recorded.values()
    if not all(torch.isfinite(t).all() for t in sliced if t.is_floating_point()):
        return None
    errors = [relative_error(a, b) for a, b in zip(sliced, masked, strict=True)]
    if max(errors, default=0.0) <= tolerance:
        return None
    where = first_difference(first, second, tolerance)
    return Failure(where, f'sliced and masked outputs differ by {max(errors):.1e}', True)


def blame(
    failure: Failure,
    labelling: Labelling,
    prunable: BoolArray,
    kinds: Mapping[str, type],
    tried: Collection[tuple[str, str]],
) -> dict[tuple[str, str], str]:
    """What to hold on to, so that a failure cannot happen again.

    Walks from the failing module outward. First to a module in which dims of one size differ:
    if it computes one from the other, they must shrink alike. Then to one that cuts or views
    channels by number, whose dims are pinned; at last to one that channels pass through. All
    modules of its class are taken to do the same.

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
    search = partial(_sizes_to_hold, failure, labelling, prunable, kinds, tried)
    # Shapes that do not fit say more of sizes than of values that leave the graph.
    found = {} if failure.is_difference else search(chain[:1], ('alike',))
    if found:
        return found
    if labelling.has_escapes and ESCAPES not in tried:
        return {ESCAPES: 'used outside of the autograd graph'}
    if labelling.arrangements and ORDERS not in tried:
        return {ORDERS: 'kept channels stand in the order of the full network'}
    found = search(chain, ('alike', 'own', 'passed', 'inside'))
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
    tried: Collection[tuple[str, str]],
    chain: list[str],
    ways: Iterable[str],
) -> dict[tuple[str, str], str]:
    """The first of ``ways`` to hold sizes of a module of ``chain`` that may help."""
    for what in ways:
        for name in chain:
            sizes = [size for size in labelling.sizes if _is_at(size.module, name, what)]
            if what == 'alike':
                fits = bool(unlike_sizes(sizes)) and (name, what) not in tried
            else:
                own = what == 'own'
                fits = any(
                    (size.own is own or what == 'inside') and _shrinks(size, prunable)
                    for size in sizes
                )
            if fits:
                kind = kinds.get(name)
                same = [n for n, k in kinds.items() if k is kind] if name else [name]
                same = same if what in ('alike', 'own') else [name]
                return {
                    (n, what): f'{kind.__name__ if kind else n} {n or "(root)"} reads sizes that '
                    f'mmprune does not mend ({failure.problem[:120]})'
                    for n in same
                }
    return {}


def _is_at(module: str, name: str, what: str) -> bool:
    """Whether a dim that ``module`` met is one that module ``name`` may know the size of."""
    if what == 'inside':
        return is_child(module, name)
    return module == name


def _shrinks(size: Size, prunable: BoolArray) -> bool:
    return any(prunable[f[f >= 0]].any() for f in size.factors)
