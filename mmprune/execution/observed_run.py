"""Run a model on a road and keep what every module gave, to find where two runs part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmprune.execution.fast_paths import plain_paths
from mmprune.trace.calls import tensors_in
from mmprune.trace.chance import without_chance
from mmprune.trace.copies import Contents
from mmprune.trace.eager import eagerly
from mmprune.trace.model_state import modes_kept, set_mode, untouched
from mmprune.trace.roads import DemoInput, Road, as_road
from mmprune.trace.walk import modules_of


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


class OutputRecorder:
    """Outputs of every module, in order of the ends of their calls; none if not to observe."""

    def __init__(self, model: nn.Module, observe: bool = True) -> None:
        self.outputs: list[tuple[str, list[torch.Tensor]]] = []
        self.running: list[str] = []
        self.handles = []
        for name, module in modules_of(model).items() if observe else ():
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
        """Stop recording."""
        for handle in self.handles:
            handle.remove()


def restored(
    model: nn.Module, road: Road, contents: Contents | None = None
) -> contextlib.AbstractContextManager:
    """Context after which a model is what it was before it was run on a road.

    Training writes to statistics, averages and counters; eval mode to nothing that matters.

    Args:
        model: The model.
        road: What it is run on.
        contents: See ``untouched``.
    """
    return untouched(model, contents) if road.training else contextlib.nullcontext()


def observed_run(
    model: nn.Module, demo_input: DemoInput | Road, observe: bool = True
) -> tuple[list[torch.Tensor], OutputRecorder, str]:
    """Outputs on a road, what was recorded if asked to, and how it failed if it did.

    An input that is no road is run in eval mode. In training nothing is left to chance, see
    ``mmprune.trace.chance``.
    """
    road = as_road(demo_input)
    recorder = OutputRecorder(model, observe)
    fork = torch.random.fork_rng(devices=[])
    as_used = without_chance() if road.training else torch.no_grad()
    try:
        with modes_kept(model), plain_paths(), eagerly(), fork, as_used:
            set_mode(model, road.training)
            _seed(modules_of(model).values())
            found = tensors_in(road.run(model))
        return [tensor.detach() for tensor in found], recorder, ''
    except Exception as error:  # whatever a user's model raises is the finding
        return [], recorder, f'{type(error).__name__}: {error}'
    finally:
        recorder.remove()


def _seed(modules: Iterable[nn.Module]) -> None:
    """Let all numbers that some modules draw be the same in every run."""
    devices = {p.device.type for m in modules for p in m._parameters.values() if p is not None}
    if devices <= {'cpu'}:  # for other devices torch notes down where it was told
        torch.default_generator.manual_seed(0)
    else:
        torch.manual_seed(0)


def first_difference(first: OutputRecorder, second: OutputRecorder, tolerance: float) -> str:
    """Name of the first module whose outputs differ in two runs; empty if none does.

    Outputs of other shapes (masked and sliced runs) are not compared.
    """
    for (name, ours), (other, theirs) in zip(first.outputs, second.outputs, strict=False):
        if name != other:
            return name
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a.shape == b.shape]
        if any(relative_error(a, b) > tolerance for a, b in pairs):
            return name
    return ''
