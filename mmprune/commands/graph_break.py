"""Find where a network leaves the autograd graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmprune.trace.model_state import untouched
from mmprune.trace.roads import DemoInput, Road, as_road
from mmprune.trace.tracer import tensors_in


def where_gradients_end(model: nn.Module, demo_input: DemoInput | Road) -> str | None:
    """Name of the first module whose outputs have lost the gradients of what went in.

    That is a module with parameters, or with an input that requires grad, none of whose
    outputs does: it runs under ``torch.no_grad``, detaches its result, or leaves torch.

    Returns:
        The module's name ('' for the root), or None if there is none, or the model fails.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        floats = [t for t in tensors_in(output) if t.is_floating_point()]
        begins = any(t.requires_grad for t in (*tensors_in(args), *module.parameters()))
        if begins and floats and not any(t.requires_grad for t in floats):
            found.append(names[module])

    with untouched(model), torch.enable_grad():
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        handles = [module.register_forward_hook(leave) for module in names]
        try:
            as_road(demo_input).run(model)
        except Exception:  # whatever a user's model raises: its failure is told elsewhere
            return None
        finally:
            for handle in handles:
                handle.remove()
    return found[0] if found else None
