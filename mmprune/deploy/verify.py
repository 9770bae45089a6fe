"""Compare a subnet in the supernet with the deployed network, and say where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mmprune.execution.observed_run import (
    first_difference,
    observed_run,
    relative_error,
    restored,
)
from mmprune.trace.roads import DemoInput, Road, as_road

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Allowed relative error by the type that a model computes in."""


def tolerance_of(model: nn.Module, types: Iterable[torch.dtype] = ()) -> float:
    """Allowed relative error of a model, some of whose operations give these types."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return max(TOLERANCE.get(kind, 0.0) for kind in (own, torch.float64, *types))


def tolerance_in_float64(single: float) -> float:
    """Allowed relative error in float64 where float32 shows ``single``.

    A network that magnifies rounding at every layer, as norms over a channel's two numbers in a
    small batch do, differs in float64 too, by as much less as that is more precise (2e-9). A
    mistake does not shrink like that.
    """
    precise = TOLERANCE[torch.float64]
    return max(precise, 1e-7 * single) if single < float('inf') else precise


@dataclass(frozen=True)
class VerifyReport:
    """Whether a subnet behaves the same wherever it runs.

    Attributes:
        ok: Whether the outputs agree within the tolerance.
        max_rel_err: Largest difference over the largest magnitude of the outputs.
        tolerance: What was allowed.
        first_diverging_module: First module, in order of execution, whose output differs
            or that failed; empty if all agree.
        problem: What went wrong, for a person; empty if nothing did.
        rounding: Largest relative difference in the model's own type, where only float64 shows
            that the computations are the same; 0 otherwise.
        road: The road on which the error is largest.
        roads: All roads that were walked.
        not_walked: Roads that could not be walked, and why.
    """

    ok: bool
    max_rel_err: float
    tolerance: float
    first_diverging_module: str = ''
    problem: str = ''
    rounding: float = 0.0
    road: str = 'eval'
    roads: tuple[str, ...] = ('eval',)
    not_walked: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.ok:
            agree = (
                f'verified: supernet and deployed network agree{self._on()}, largest relative '
                f'error {self.max_rel_err:.1e} (allowed {self.tolerance:.0e})'
            )
            if not self.rounding:
                return agree
            return (
                f'{agree} in float64. In its own type they differ by {self.rounding:.1e}: rounding '
                'tips choices that the network takes, such as which neighbours are nearest, or is '
                'magnified by the statistics of a small batch; a mistake would be as large in '
                'float64'
            )
        where = self.first_diverging_module or 'the output'
        return (
            f"NOT verified: supernet and deployed network part at '{where}'"
            f'{"" if self.road == "eval" else f" on the road {self.road}"}; largest relative '
            f'error {self.max_rel_err:.1e} (allowed {self.tolerance:.0e}). {self.problem}'
        )

    def _on(self) -> str:
        """The roads, if there are more than one."""
        walked = f' on {len(self.roads)} roads ({", ".join(self.roads)})'
        missing = ''.join(f'; {name} could not be walked: {why}' for name, why in self.not_walked)
        return (walked if len(self.roads) > 1 else '') + missing


def compare(
    supernet: nn.Module,
    deployed: nn.Module,
    demo_input: DemoInput | Road,
    cut: Callable[[], nn.Module] | None = None,
    types: Iterable[torch.dtype] = (),
    tolerance: float | None = None,
) -> VerifyReport:
    """Run both on the same input and compare every output.

    Both are left as they were.

    Args:
        supernet: With a subnet set.
        deployed: The plain network of that subnet.
        demo_input: What both are run on: in eval mode, if it is no road.
        cut: Makes the deployed network of the supernet as it is. In training it shows whether
            both have written the same to statistics and averages.
        types: What operations of theirs give, whatever type their weights have.
        tolerance: What is allowed; what is usual for the types if None.
    """
    road = as_road(demo_input)
    tolerance = tolerance_of(supernet, types) if tolerance is None else tolerance

    def failed(where: str, problem: str, error: float = float('inf')) -> VerifyReport:
        return VerifyReport(False, error, tolerance, where, problem, road=road.name)

    with restored(supernet, road), restored(deployed, road):
        expected, first, failure = observed_run(supernet, road)
        if failure:
            where = first.running[-1] if first.running else ''
            return failed(where, f'The supernet failed there: {failure}')
        found, second, failure = observed_run(deployed, road)
        if failure:
            where = second.running[-1] if second.running else ''
            return failed(where, f'The deployed network failed there: {failure}')
        if len(expected) != len(found):
            return failed('', f'The outputs hold {len(expected)} and {len(found)} tensors.')
        errors = [relative_error(a, b) for a, b in zip(expected, found, strict=True)]
        error = max(errors, default=0.0)
        if error > tolerance:
            nan = any(bool(torch.isnan(tensor).any()) for tensor in expected)
            problem = (
                'The supernet gives NaN: give another demo input.' if nan else 'Outputs differ.'
            )
            return failed(first_difference(first, second, tolerance), problem, error)
        if road.training and cut is not None:
            name, error = _written_differently(cut(), deployed)
            if error > tolerance:
                problem = f'It writes other numbers to {name}.'
                return failed(name.rpartition('.')[0], problem, error)
    largest = max((float(t.double().abs().max()) for t in expected if t.numel()), default=0.0)
    if largest == 0 and not road.training:
        what = 'zero' if any(t.numel() for t in expected) else 'empty'
        return failed('', f'All outputs are {what}, which proves nothing.', error)
    return VerifyReport(True, error, tolerance, road=road.name)


def _written_differently(first: nn.Module, second: nn.Module) -> tuple[str, float]:
    """The tensor that differs most in two networks of the same kind, and by how much.

    Relative to the largest number that its module holds: a running mean may be 0 but for
    rounding.
    """
    ours, theirs = first.state_dict(), second.state_dict()
    tensors = {n: t.detach().double() for n, t in ours.items() if isinstance(t, torch.Tensor)}
    scales: dict[str, float] = {}
    for name, tensor in tensors.items():
        owner = name.rpartition('.')[0]
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        scales[owner] = max(scales.get(owner, 0.0), largest)
    worst = ('', 0.0)
    for name, tensor in tensors.items():
        other = theirs[name].detach().to(tensor)
        if tensor.shape == other.shape and torch.allclose(tensor, other, 0, 0, equal_nan=True):
            continue  # what is NaN in both is no difference
        error, scale = relative_error(tensor, other), scales[name.rpartition('.')[0]]
        if 0 < error < float('inf') and scale > 0:
            error = float((tensor - other).abs().max()) / scale
        worst = max(worst, (name, error), key=lambda found: found[1])
    return worst
