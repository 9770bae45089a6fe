"""See every linear function and convolution of a forward pass, whichever module calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch.nn import functional as F

from mmprune.compensation.calls import LayerCall, layer_call
from mmprune.trace.function_mode import FunctionMode

_ATTENTION = signature(F.multi_head_attention_forward)


class Observer:
    """What wants to know of the calls of one forward pass; it may leave out some of these."""

    def before(self, call: LayerCall) -> None:
        """A call is about to be made; its weight may be changed in place now."""

    def after(self, call: LayerCall, output: torch.Tensor) -> None:
        """A call was made."""

    def read(self, function: Callable[..., Any], arguments: Mapping[Any, Any]) -> None:
        """Another function of torch is about to be called; its arguments by place or name."""


class Watch(FunctionMode):
    """Context of a forward pass in which an observer is told of all calls.

    Attention of torch hands the weights of its projections to one function. The projection of its
    outputs is taken out of it (the function is given an identity, which copies exactly) and
    done afterwards, as a call; that of its inputs is told of where all of them are one tensor.
    """

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is F.multi_head_attention_forward:
            return self._attention(args, kwargs)
        call = layer_call(func, args, kwargs)
        if call is None:
            self.observer.read(func, {**dict(enumerate(args)), **kwargs})
            return func(*args, **kwargs)
        self.observer.before(call)
        output = func(*args, **kwargs)
        self.observer.after(call, output)
        return output

    def _attention(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = _ATTENTION.bind(*args, **kwargs).arguments
        query, weight = given['query'], given['in_proj_weight']
        is_one = weight is not None and query is given['key'] and query is given['value']
        if is_one:
            call = LayerCall('linear', query, weight, given['in_proj_bias'])
            self.observer.before(call)
            self.observer.after(call, F.linear(call.input, call.weight, call.bias))
        last = LayerCall('linear', query, given['out_proj_weight'], given['out_proj_bias'])
        taken = ('out_proj_weight', 'out_proj_bias', *(('in_proj_weight', 'in_proj_bias') * is_one))
        others = {name: value for name, value in given.items() if name not in taken}
        self.observer.read(F.multi_head_attention_forward, others)
        size = last.weight.shape[1]
        same = torch.eye(size, dtype=last.weight.dtype, device=last.weight.device)
        mixed, weights = F.multi_head_attention_forward(
            **{**given, 'out_proj_weight': same, 'out_proj_bias': None}
        )
        last.input = mixed
        self.observer.before(last)
        output = F.linear(mixed, last.weight, last.bias)
        self.observer.after(last, output)
        return output, weights


def tensors_among(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, also in lists and tuples of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_among(value)
