"""Running a network of the zoo, and comparing and counting what comes out."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmprune.trace.calls import tensors_in
from mmprune.trace.model_state import modes_kept
from mmprune.trace.roads import roads_of


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference of two tensors over their largest magnitude; infinite if not finite."""
    if first.shape != second.shape:
        return float('inf')
    scale = torch.maximum(first.abs().max(), second.abs().max())
    value = float((first - second).abs().max() / scale)
    return value if value == value else float('inf')


def run(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The network's output as one (N, features) tensor."""
    return counted_run(model, batch)[0]


def counted_run(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The network's output in eval mode, and its multiply-adds as torch counts them."""
    road = roads_of(model, batch)[0]
    # Full mmcv convolves by them where data are read at offsets; torch counts those that make a
    # tensor only.
    # Its attention on a CPU is none of those that torch counts.
    others = {
        torch.ops.aten.addmm_: _product_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    }
    with (
        modes_kept(model), torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=others) as counter,
    ):  # fmt: skip
        model.requires_grad_(False)  # the counter wants the graph of whatever requires grad
        parts = tensors_in(road.run(model))
    flops = int(counter.get_total_flops())
    return torch.cat([part.reshape(len(batch), -1) for part in parts], dim=1), flops // 2


def _product_flops(into: torch.Size, one: torch.Size, other: torch.Size, **_: object) -> int:
    """Those of a product (n, k) x (k, m) that is added into a tensor, by their shapes."""
    return 2 * one[0] * one[1] * other[1]


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    """Those of attention, by the shapes of its queries, keys and values."""
    return int(sdpa_flop_count(query, key, value))


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
