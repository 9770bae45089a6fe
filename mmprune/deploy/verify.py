"""Compare a subnet in the supernet with the deployed network, and say where they part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mmprune.execution.observed_run import first_difference, observed_run, relative_error
from mmprune.trace.tracer import DemoInput

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Allowed relative error by the type of the model's parameters."""


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
    """

    ok: bool
    max_rel_err: float
    tolerance: float
    first_diverging_module: str = ''
    problem: str = ''
    rounding: float = 0.0

    def __str__(self) -> str:
        if self.ok:
            agree = (
                f'verified: supernet and deployed network agree, largest relative error '
                f'{self.max_rel_err:.1e} (allowed {self.tolerance:.0e})'
            )
            if not self.rounding:
                return agree
            return (
                f'{agree} in float64. In its own type they differ by {self.rounding:.1e}: rounding '
                'tips choices that the network takes, such as which neighbours are nearest'
            )
        where = self.first_diverging_module or 'the output'
        return (
            f"NOT verified: supernet and deployed network part at '{where}'; largest relative "
            f'error {self.max_rel_err:.1e} (allowed {self.tolerance:.0e}). {self.problem}'
        )


def compare(supernet: nn.Module, deployed: nn.Module, demo_input: DemoInput) -> VerifyReport:
    """Run both in eval mode on the same input and compare every output.

    Args:
        supernet: With a subnet set.
        deployed: The plain network of that subnet.
        demo_input: What both are run on.
    """
    dtype = next((p.dtype for p in supernet.parameters()), torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-5)
    expected, first, failure = observed_run(supernet, demo_input)
    if failure:
        where = first.running[-1] if first.running else ''
        return VerifyReport(
            False, float('inf'), tolerance, where, f'The supernet failed there: {failure}'
        )
    found, second, failure = observed_run(deployed, demo_input)
    if failure:
        where = second.running[-1] if second.running else ''
        return VerifyReport(
            False, float('inf'), tolerance, where, f'The deployed network failed there: {failure}'
        )
    if len(expected) != len(found):
        problem = f'The outputs hold {len(expected)} and {len(found)} tensors.'
        return VerifyReport(False, float('inf'), tolerance, '', problem)
    error = max((relative_error(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    largest = max((float(t.double().abs().max()) for t in expected if t.numel()), default=0.0)
    if error <= tolerance and largest > 0:
        return VerifyReport(True, error, tolerance)
    if largest == 0:
        problem = 'All outputs are zero, which proves nothing.'
        return VerifyReport(False, error, tolerance, '', problem)
    where = first_difference(first, second, tolerance)
    return VerifyReport(False, error, tolerance, where, 'Outputs differ.')
