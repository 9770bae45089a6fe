"""Functions of torch that the graph shows as one node, whatever they are made of.

The graph of a normalisation or of a recurrent layer differs by device, type and version of
torch: one node, or dozens of small ones of which none says what they are together. In a
trace such a call is computed outside of the graph, and one node stands for it, with the
tensors that it was given as inputs and what its parser needs as ``attrs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


class Composite(torch.autograd.Function):
    """``apply(attrs, results, *inputs)`` gives the results, as made from the inputs.

    Inputs that are None have no place in the graph.
    """

    @staticmethod
    def forward(ctx: Any, attrs: dict[str, Any], results: tuple, *inputs: Tensor | None) -> Any:
        """Give the results a node with these inputs."""
        ctx.attrs = attrs
        return results if len(results) > 1 else results[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Refused."""
        raise RuntimeError('the graph of a trace is only looked at')


class RmsNorm(Composite):
    """Inputs: data, weight."""


class InstanceNorm(Composite):
    """Inputs: data (N, C, *space), weight, bias."""


class EmbeddingWithMaxNorm(Composite):
    """Input: weight, whose rows are shortened in place; nobody knows how to prune that."""


class WeightNorm(Composite):
    """Inputs: directions, lengths."""


class Attention(Composite):
    """Inputs: queries, keys, values, mask."""


class Stepwise(Composite):
    """Inputs: tensors, whose elements make one each; torch knows no derivative."""


def outside(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The results of a function, computed without a graph."""
    with torch.no_grad():
        return function(*args, **kwargs)


def _rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    result = outside(F.rms_norm, input, normalized_shape, weight, eps)
    return RmsNorm.apply({'normalized_shape': tuple(normalized_shape)}, (result,), input, weight)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    *rest: Any,
    **options: Any,
) -> Tensor:
    statistics = (running_mean, running_var)
    result = outside(
        F.instance_norm, input, *statistics, weight, bias, use_input_stats, *rest, **options
    )
    attrs = {'buffer_tensors': tuple(s for s in statistics if s is not None)}
    return InstanceNorm.apply(attrs, (result,), input, weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """A batch norm of any batch: its numbers do not matter, and a single value has statistics.

    Its running statistics are leaves of the graph only where others read them as numbers.
    """
    cudnn = torch.backends.cudnn.enabled
    mean = None if running_mean is None else running_mean.detach()
    variance = None if running_var is None else running_var.detach()
    return torch.batch_norm(input, weight, bias, mean, variance, training, momentum, eps, cudnn)


_PLAIN_WEIGHT_NORM = torch._weight_norm


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return WeightNorm.apply({'dim': dim}, (outside(_PLAIN_WEIGHT_NORM, v, g, dim),), v, g)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    tensors = (query, key, value, attn_mask)
    result = outside(F.scaled_dot_product_attention, *tensors, *rest, **options)
    scale = rest[2] if len(rest) > 2 else options.get('scale')
    return Attention.apply({'is_scaled_by_width': scale is None}, (result,), *tensors)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    if max_norm is None:
        return F.embedding(input, weight, padding_idx, None, *rest, **options)
    result = outside(F.embedding, input, weight, padding_idx, max_norm, *rest, **options)
    return EmbeddingWithMaxNorm.apply({}, (result,), weight)


def _rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    first, second = dims
    if k % 4 == 2:
        return input.flip(first, second)
    turned = input.transpose(first, second) if k % 2 else input.clone()
    return turned.flip(first if k % 4 == 1 else second) if k % 4 else turned


def _stepwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [own for own in (*args, *kwargs.values()) if isinstance(own, Tensor)]
        return Stepwise.apply({}, (outside(function, *args, **kwargs),), *tensors)

    return call


COMPOSITES: dict[Any, Callable[..., Any]] = {
    torch.rot90: _rot90,
    Tensor.rot90: _rot90,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.embedding: _embedding,
    F.scaled_dot_product_attention: _attention,
    _PLAIN_WEIGHT_NORM: _weight_norm,
    **{
        function: _stepwise(function)
        for function in (
            torch.heaviside, Tensor.heaviside, torch.floor_divide, Tensor.floor_divide,
            Tensor.__floordiv__,
        )
    },
}  # fmt: skip
"""Function of torch -> what a trace calls in its place."""
