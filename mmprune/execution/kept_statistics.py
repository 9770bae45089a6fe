"""Normalisation and reductions over kept channels only, for masked execution."""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.compiler import is_compiling

from mmprune.execution.masked_moments import masked_variance, number_of_elements, standardised
from mmprune.execution.masked_sizes import MaskedSize
from mmprune.trace.function_mode import FunctionMode
from mmprune.trace.size_arguments import ARITHMETIC, NUMELS, SIZES
from mmprune.trace.traced_int import scale_of

# Function of torch -> (kind of statistic, position of its dims, dims if there are none given).
_REDUCTIONS: dict[Any, tuple[str, int, Any]] = {
    function: (kind, position, default)
    for kind, position, default, functions in (
        ('mean', 1, None, (torch.mean, torch.Tensor.mean)),
        ('sum', 1, None, (torch.sum, torch.Tensor.sum)),
        ('max', 1, None, (torch.max, torch.Tensor.max)),
        ('amax', 1, (), (torch.amax, torch.Tensor.amax)),
        ('min', 1, None, (torch.min, torch.Tensor.min)),
        ('amin', 1, (), (torch.amin, torch.Tensor.amin)),
        ('logsumexp', 1, None, (torch.logsumexp, torch.Tensor.logsumexp)),
        ('var', 1, None, (torch.var, torch.Tensor.var)),
        ('std', 1, None, (torch.std, torch.Tensor.std)),
        ('varmean', 1, None, (torch.var_mean,)),
        ('stdmean', 1, None, (torch.std_mean,)),
        ('vector_norm', 2, None, (torch.norm, torch.Tensor.norm)),
        ('vector_norm', 2, None, (torch.linalg.vector_norm, torch.linalg.norm)),
        ('vector_norm', 2, 1, (F.normalize,)),
    )
    for function in functions
}
# They take the mean or the sum of what two tensors differ by.
_DISTANCES = frozenset({F.l1_loss, F.mse_loss, F.smooth_l1_loss, F.huber_loss})
# What a channel that is not kept is set to, so that it does not count.
_NEUTRAL = {
    'mean': 0.0, 'sum': 0.0, 'vector_norm': 0.0, 'max': -math.inf, 'amax': -math.inf,
    'min': math.inf, 'amin': math.inf, 'logsumexp': -math.inf,
}  # fmt: skip
_READERS = frozenset(
    {
        F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
        F.conv_transpose3d, torch.conv1d, torch.conv2d, torch.conv3d, F.bilinear,
    }
)  # fmt: skip
_WEIGHT_NORM = torch._weight_norm
_RUNNING = threading.local()
"""Whether a function of the thread is being computed for kept channels."""
_TORCHS_ATTENTION = F.multi_head_attention_forward


@dataclass
class KeptElements:
    """Kept elements of a tensor that goes through an operation which mixes its channels.

    Attributes:
        kind: Of a reduction its name; ``'layer_norm'``, ``'group_norm'``, ``'rms_norm'``,
            ``'batch_norm'``; ``'size'`` of a tensor whose size along ``dims`` is computed with;
            ``'reader'`` for a layer whose weight may have other columns than zeros where its
            input has channels that are not kept; ``'weight_norm'``; ``'attention'`` for queries
            whose width scales, ``'one_head'`` for the rows of the weight that makes them in
            torch's module; ``'distance'`` for rows of which others have a distance.
        dims: The dims that are reduced, counted from the end; empty where the operation says.
        kept: Which elements are kept, bool, of the tensor's rank, size 1 where it makes no
            difference.
        node: The operation; of several with tensors of one shape they are taken in order.
    """

    kind: str
    dims: tuple[int, ...]
    kept: torch.Tensor
    node: int = -1

    def fits(self, data: torch.Tensor) -> bool:
        """Whether ``data`` is the tensor that was traced, by its rank and its channels.

        The rows that a linear layer reads may have any shape.
        """
        if self.kind == 'reader' and self.kept.dim() == 1:
            return data.shape[-1:] == self.kept.shape
        shapes = zip(self.along(data).shape, data.shape, strict=False)
        return data.dim() == self.kept.dim() and all(k in (1, d) for k, d in shapes)

    def along(self, data: torch.Tensor) -> torch.Tensor:
        """The kept elements for as many samples as ``data`` has.

        Blocks of channels lie along the samples of a norm over these, for each sample once more.
        """
        if self.kind != 'batch_norm' or len(self.kept) == 1:
            return self.kept
        times, rest = divmod(len(data), len(self.of_sample))
        return self.kept if rest else self.of_sample.repeat(times, *(1,) * (self.kept.dim() - 1))

    @cached_property
    def of_sample(self) -> torch.Tensor:
        """What repeats along the first dim."""
        number = len(self.kept)
        folds = (self.kept.unflatten(0, (-1, n)) for n in range(1, number + 1) if not number % n)
        return next(fold[0] for fold in folds if bool((fold == fold[:1]).all()))


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let no module further out take part in what a module does."""
    before, _RUNNING.mode = getattr(_RUNNING, 'mode', None), None
    try:
        yield
    finally:
        _RUNNING.mode = before


def is_part() -> bool:
    """Whether a module further out takes statistics over kept channels."""
    return getattr(_RUNNING, 'mode', None) is not None


def calls_until_now() -> Counter[tuple]:
    """What the module that runs has computed so far, for a part of it that is run again."""
    mode: KeptStatistics | None = getattr(_RUNNING, 'mode', None)
    return Counter() if mode is None else mode.calls.copy()


class KeptStatistics(FunctionMode):
    """Within it, norms and reductions over channels see only the kept ones.

    Where a module computes several of a kind from tensors of one shape, they are told apart by
    their order.

    Args:
        elements: The kept elements of all of them.
        calls: How many of them were computed before.
    """

    def __init__(
        self, elements: Sequence[KeptElements], calls: Counter[tuple] | None = None
    ) -> None:
        super().__init__()
        self.elements = elements
        self.calls: Counter[tuple] = Counter(calls)

    def __enter__(self) -> KeptStatistics:
        self._outer, _RUNNING.mode = getattr(_RUNNING, 'mode', None), self
        if self._outer is not None and self._outer.elements is self.elements:
            self.calls = self._outer.calls  # a part of its forward, which goes on behind it
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _RUNNING.mode = self._outer
        super().__exit__(*error)

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        is_others = getattr(_RUNNING, 'mode', self) is not self and not is_compiling()
        if getattr(_RUNNING, 'is_inside', False) or is_others:
            return func(*args, **kwargs)
        if func in ARITHMETIC:
            args = tuple(map(scale_of, args))
        elif func in SIZES:
            return self._sizes(func, args, kwargs)
        if func not in _KEPT:
            return func(*args, **kwargs)
        # A module further out must not take the same mean once more.
        _RUNNING.is_inside = True
        try:
            return self._kept(func, args, kwargs)
        finally:
            _RUNNING.is_inside = False

    def _sizes(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The sizes of a tensor, some of which know how much is kept."""
        data: torch.Tensor = args[0] if args else kwargs['input']
        with torch._C.DisableTorchFunction():
            sizes: list[int] = list(data.shape)
            for element in self.elements:
                if element.kind == 'size' and element.fits(data):
                    (dim,) = element.dims
                    kept = int(element.kept.sum(dim).max())
                    sizes[dim] = MaskedSize(sizes[dim], kept)
        if func in NUMELS:
            return math.prod(sizes)
        asked = args[1] if len(args) > 1 else kwargs.get('dim')
        return torch.Size(sizes) if asked is None or func is not torch.Tensor.size else sizes[asked]

    def _kept(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func in _REDUCTIONS:
            return self._reduce(func, args, kwargs)
        if func in _DISTANCES:
            how = {'mean': torch.mean, 'sum': torch.sum}.get(kwargs.get('reduction', 'mean'))
            each = func(*args, **{**kwargs, 'reduction': 'none'})
            return each if how is None else self._reduce(how, (each,), {})
        if func is _TORCHS_ATTENTION:
            rows = [element.kept for element in self.elements if element.kind == 'one_head']
            run = partial(_one_head, rows[0].to(args[0])) if rows else func
            return run(*args, **kwargs)
        name = next((own for own in ('query', 'x1') if own in kwargs), 'input')
        data = args[0] if args else kwargs.pop(name)
        kind, run = _NORMS.get(func, ('reader', None))
        mask = self._mask(kind, None, data)
        if mask is not None and run is not None:
            return run(mask, data, *args[1:], **kwargs)
        data = data if mask is None else data * mask
        return func(data, *args[1:], **kwargs)

    def _mask(self, kind: str, dims: tuple[int, ...] | None, data: Any) -> torch.Tensor | None:
        """The kept elements of ``data`` as 0/1 numbers; None if nothing is known of it."""
        if not isinstance(data, torch.Tensor):
            return None
        fitting = [
            element
            for element in self.elements
            if element.kind == kind and element.fits(data) and dims in (None, element.dims)
        ]
        nodes = list(dict.fromkeys(element.node for element in fitting))
        if len(nodes) > 1:
            key = (kind, dims, *nodes)
            node = nodes[self.calls[key] % len(nodes)]
            self.calls[key] += 1
            fitting = [element for element in fitting if element.node == node]
        masks = [element.along(data).to(data) for element in fitting]
        return math.prod(masks[1:], start=masks[0]) if masks else None

    def _reduce(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        kind, position, default = _REDUCTIONS[func]
        if not args:  # the tensor has different names as a keyword
            name = next(name for name in ('input', 'self', 'x', 'A') if name in kwargs)
            args = (kwargs.pop(name),)
        data: torch.Tensor = args[0]
        dims = args[position] if len(args) > position else kwargs.get('dim', kwargs.get('axis'))
        dims = default if dims is None or isinstance(dims, bool) else dims
        if isinstance(dims, torch.Tensor):  # torch.max of two tensors
            return func(*args, **kwargs)
        reduced = _from_end(dims, data.dim())
        mask = self._mask(kind, reduced, data)
        if mask is None:
            return func(*args, **kwargs)
        if kind in ('var', 'std', 'varmean', 'stdmean'):
            return masked_variance(kind, data, mask, reduced, args[1:], kwargs)
        neutral = _NEUTRAL[kind]
        data = data * mask if neutral == 0 else data.masked_fill(mask == 0, neutral)
        result = func(data, *args[1:], **kwargs)
        if kind == 'mean':
            full = math.prod(data.shape[dim] for dim in reduced)
            share = full / number_of_elements(data, mask, reduced)
            result = result * (share if result.dim() == data.dim() else share.squeeze(reduced))
        return result


def _from_end(dims: Any, rank: int) -> tuple[int, ...]:
    """Dims counted from the end, in order; all of them if none are given."""
    if dims is None or (isinstance(dims, tuple | list) and not dims):
        return tuple(range(-rank, 0))
    chosen = (dims,) if isinstance(dims, int) else tuple(dims)
    return tuple(sorted(dim % rank - rank for dim in chosen))


def _layer_norm(
    mask: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    result = standardised(input, mask, tuple(range(-len(normalized_shape), 0)), eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _rms_norm(
    mask: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """Data over the root of the mean of its squares, of the kept channels."""
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    data = input * mask
    mean = data.square().sum(dims, keepdim=True) / number_of_elements(data, mask, dims)
    result = data * torch.rsqrt(mean + eps)
    return result if weight is None else result * weight


def _group_norm(
    mask: torch.Tensor,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    blocks = input.reshape(len(input), num_groups, -1)
    kept = mask.expand_as(input[:1]).reshape(1, num_groups, -1)
    result = standardised(blocks, kept, (-1,), eps).reshape(input.shape)
    shape = (1, -1, *(1,) * (input.dim() - 2))
    result = result if weight is None else result * weight.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


def _batch_norm(
    mask: torch.Tensor,
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Statistics of the kept elements, which go into the running ones; these know nothing else."""
    if not training:
        statistics = (running_mean, running_var)
        return F.batch_norm(input, *statistics, weight, bias, training, momentum, eps)
    dims = tuple(dim - input.dim() for dim in range(input.dim()) if dim != 1)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            variance, mean = masked_variance('varmean', input, mask, dims, (), {})
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(variance.to(running_var), momentum)
    result = standardised(input, mask, dims, eps)
    shape = (1, -1, *(1,) * (input.dim() - 2))
    result = result if weight is None else result * weight.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


def _attention(mask: torch.Tensor, query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Torch scales by the width of the queries, which is that of the kept channels."""
    if kwargs.get('scale') is None and len(args) < 6:
        query = query * _wider(mask)
    return F.scaled_dot_product_attention(query, *args, **kwargs)


def _distances(
    mask: torch.Tensor, x1: torch.Tensor, x2: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Of rows from others; buffers among them are not masked."""
    return torch.cdist(x1 * mask, x2 * mask, *args, **kwargs)


def _wider(mask: torch.Tensor) -> torch.Tensor:
    """The root of how often the kept channels along the last dim go into all of them."""
    return (mask.shape[-1] / mask.sum(-1, keepdim=True).clamp(min=1)).sqrt()


def _one_head(mask: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """The same in torch's module of one head: its queries are made wider."""
    given = inspect.signature(_TORCHS_ATTENTION).bind(*args, **kwargs).arguments
    times = _wider(mask)
    for name in ('in_proj_weight', 'q_proj_weight', 'in_proj_bias'):
        tensor = given.get(name)
        if tensor is not None:
            rows = torch.ones_like(tensor[:, :1] if tensor.dim() > 1 else tensor)
            rows[: len(mask)] = times
            given[name] = tensor * rows
    return _TORCHS_ATTENTION(**given)


def _weight_norm(
    mask: torch.Tensor, v: torch.Tensor, g: torch.Tensor, dim: int = 0
) -> torch.Tensor:
    """A vector that is not kept has length zero: it gets another, and a ``g`` of zero."""
    return _WEIGHT_NORM(v + (1 - mask), g, dim)


_NORMS: dict[Any, tuple[str, Any]] = {
    F.layer_norm: ('layer_norm', _layer_norm),
    torch.layer_norm: ('layer_norm', _layer_norm),
    F.rms_norm: ('rms_norm', _rms_norm),
    torch.rms_norm: ('rms_norm', _rms_norm),
    F.batch_norm: ('batch_norm', _batch_norm),
    F.group_norm: ('group_norm', _group_norm),
    torch.group_norm: ('group_norm', _group_norm),
    _WEIGHT_NORM: ('weight_norm', _weight_norm),
    F.scaled_dot_product_attention: ('attention', _attention),
    torch.cdist: ('distance', _distances),
}
_KEPT = frozenset({*_REDUCTIONS, *_DISTANCES, *_NORMS, *_READERS, _TORCHS_ATTENTION})
