"""Compare a subnet in the supernet with the deployed network, and say where they part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmprune.trace.tracer import DemoInput, run_model, tensors_in

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
    """

    ok: bool
    max_rel_err: float
    tolerance: float
    first_diverging_module: str = ''
    problem: str = ''

    def __str__(self) -> str:
        if self.ok:
            return (
                f'verified: supernet and deployed network agree, largest relative error '
                f'{self.max_rel_err:.1e} (allowed {self.tolerance:.0e})'
            )
        where = self.first_diverging_module or 'the output'
        return (
            f"NOT verified: supernet and deployed network part at '{where}'; largest relative "
            f'error {self.max_rel_err:.1e} (allowed {self.tolerance:.0e}). {self.problem}'
        )


def relative_error(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference over the largest magnitude; infinite if shapes or NaNs differ."""
    if first.shape != second.shape:
        return float('inf')
    if first.numel() == 0:
        return 0.0
    first, second = first.detach().double(), second.detach().double()
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        return 0.0 if torch.equal(first, second) else float('inf')
    scale = torch.maximum(first.abs().max(), second.abs().max()).item()
    return float((first - second).abs().max()) / scale if scale > 0 else 0.0


class _OutputRecorder:
    """Outputs of every module, in order of the ends of their calls."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: list[tuple[str, list[torch.Tensor]]] = []
        self.running: list[str] = []
        self.handles = []
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave(name)))

    def _enter(self, name: str) -> Any:
        return lambda module, args: self.running.append(name)

    def _leave(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self.running.pop()
            self.outputs.append((name, [t.detach() for t in tensors_in(output)]))

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _run(
    model: nn.Module, demo_input: DemoInput
) -> tuple[list[torch.Tensor], _OutputRecorder, str]:
    """Outputs in eval mode, what was recorded, and how it failed if it did."""
    recorder = _OutputRecorder(model)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return tensors_in(run_model(model, demo_input)), recorder, ''
    except Exception as error:  # whatever a user's model raises is the finding
        return [], recorder, f'{type(error).__name__}: {error}'
    finally:
        recorder.remove()
        for module, mode in training.items():
            module.training = mode


def compare(supernet: nn.Module, deployed: nn.Module, demo_input: DemoInput) -> VerifyReport:
    """Run both in eval mode on the same input and compare every output.

    Args:
        supernet: With a subnet set.
        deployed: The plain network of that subnet.
        demo_input: What both are run on.
    """
    dtype = next((p.dtype for p in supernet.parameters()), torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-5)
    expected, first, failure = _run(supernet, demo_input)
    if failure:
        where = first.running[-1] if first.running else ''
        return VerifyReport(
            False, float('inf'), tolerance, where, f'The supernet failed there: {failure}'
        )
    found, second, failure = _run(deployed, demo_input)
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
    where = _first_difference(first, second, tolerance)
    return VerifyReport(False, error, tolerance, where, 'Outputs differ.')


def _first_difference(first: _OutputRecorder, second: _OutputRecorder, tolerance: float) -> str:
    for (name, ours), (other, theirs) in zip(first.outputs, second.outputs, strict=False):
        if name != other:
            return name
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a.shape == b.shape]
        if any(relative_error(a, b) > tolerance for a, b in pairs):
            return name
    return ''
