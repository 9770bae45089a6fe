"""Which arguments of torch's functions are sizes, and of what.

Every reader gets the log, the arguments and the result of a call that has ended, and tells the
log what it was given: ``log.read(tensor, dim, number, function, start, stop)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from mmprune.trace.numbers import TORCH, Number, NumberLog, origin_of

Tensor = torch.Tensor
Kwargs = Mapping[str, Any]
Reader = Callable[[NumberLog, tuple, Kwargs, Any], None]


def _sequence(values: Sequence[Any]) -> Sequence[Any]:
    """Sizes that were given one by one or as one sequence."""
    return values[0] if len(values) == 1 and isinstance(values[0], tuple | list) else values


def _shaped(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """The result has the sizes that were given, -1 for what follows from the others."""
    rest = args[1:] or tuple(v for v in kwargs.values() if isinstance(v, tuple | list))
    sizes = _sequence(rest)
    if isinstance(result, Tensor) and len(sizes) == result.dim():
        for dim, size in enumerate(sizes):
            log.read(result, dim, size, 'a view')


def _shaped_as(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """The result has the shape of another tensor."""
    other = args[1] if len(args) > 1 else next(iter(kwargs.values()))
    for dim, size in enumerate(log.size(other, other.shape)):
        log.read(result, dim, size, 'a view')


def _unflattened(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """One dim is cut into dims of these sizes."""
    dim = args[1] if len(args) > 1 else kwargs['dim']
    sizes = args[2] if len(args) > 2 else kwargs['sizes']
    for place, size in enumerate(sizes):
        log.read(result, dim % args[0].dim() + place, size, 'unflatten')


def _repeated(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """A dim that is repeated has the size that was given, or so many times its own."""
    times = _sequence(args[1:] or tuple(kwargs.values()))
    lead = len(times) - args[0].dim()
    if isinstance(result, Tensor) and len(times) == result.dim():
        for dim, number in enumerate(times):
            size = 1 if dim < lead else args[0].shape[dim - lead]
            if size == 1 or isinstance(number, Number):
                log.read(result, dim, number if size == 1 else number * size, 'repeat')


def _split(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """Parts of the sizes that were given, or of one size but for the last."""
    names = ('split_size_or_sections', 'split_size', 'split_sizes')
    sizes = args[1] if len(args) > 1 else next(kwargs[n] for n in names if n in kwargs)
    dim = args[2] if len(args) > 2 else kwargs.get('dim', 0)
    parts = list(result)
    sizes = [sizes] * (len(parts) - 1) if isinstance(sizes, int) else sizes
    for part, size in zip(parts, sizes, strict=False):
        log.read(part, dim, size, 'split')


def _narrowed(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """A part that begins at a place and has a length."""
    given = dict(zip(('dim', 'start', 'length'), args[1:], strict=False), **kwargs)
    if isinstance(given['start'], int):
        log.read(args[0], given['dim'], given['start'], 'narrow', 0, int(given['start']))
    log.read(result, given['dim'], given['length'], 'narrow')


def _indexed(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """Slices that begin or end at a number of positions from either end."""
    tensor, index = args[0], args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(isinstance(p, slice) and (p.start or p.stop) is not None for p in parts):
        return
    taken = sum(1 for p in parts if p is not Ellipsis and p is not None)
    dim = 0
    for part in parts:
        if part is Ellipsis:
            dim += tensor.dim() - taken
        elif isinstance(part, slice):
            for bound in (part.start, part.stop):
                _read_bound(log, tensor, dim, bound)
            dim += 1
        elif isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
            dim += part.dim()
        elif part is not None:
            dim += 1


def _read_bound(log: NumberLog, tensor: Tensor, dim: int, bound: Any) -> None:
    full = tensor.shape[dim]
    if not isinstance(bound, int) or isinstance(bound, bool) or not 0 < abs(bound) < full:
        return
    if bound > 0:
        log.read(tensor, dim, bound, 'a slice', 0, int(bound))
    else:
        log.read(tensor, dim, -bound, 'a slice', full + int(bound), full)


def _padded(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """So many positions before and behind, from the last dim on."""
    widths = args[1] if len(args) > 1 else kwargs['pad']
    for place in range(0, len(widths), 2):
        dim = result.dim() - 1 - place // 2
        before, behind = widths[place : place + 2]
        log.read(result, dim, before, 'padding', 0, int(before))
        full = result.shape[dim]
        log.read(result, dim, behind, 'padding', full - int(behind), full)


def _normalised(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """The last dims have the sizes that were given."""
    shape = args[1] if len(args) > 1 else kwargs['normalized_shape']
    for place, size in enumerate(shape):
        log.read(result, place - len(shape), size, 'a normalisation')


def _grouped(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """A depthwise convolution has as many groups as channels."""
    names = ('input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups')
    given = dict(zip(names, args, strict=False), **kwargs)
    data, groups, dim = given['input'], given.get('groups', 1), given['weight'].dim() - 1
    if isinstance(groups, int) and data.dim() > dim and groups == data.shape[-dim]:
        log.read(data, data.dim() - dim, groups, 'the groups of a convolution')


_ATTENDED = (
    'query', 'key', 'value', 'embed_dim_to_check', 'num_heads', 'in_proj_weight', 'in_proj_bias',
    'bias_k', 'bias_v', 'add_zero_attn', 'dropout_p', 'out_proj_weight',
)  # fmt: skip


def _attended(log: NumberLog, args: tuple, kwargs: Kwargs, result: Any) -> None:
    """Queries are as wide as the module says, and as all heads together."""
    given = dict(zip(_ATTENDED, args, strict=False), **kwargs)
    query, heads, weight = (given[name] for name in ('query', 'num_heads', 'out_proj_weight'))
    log.read(query, -1, given['embed_dim_to_check'], 'attention')
    log.read(query, -1, log.size(weight, weight.shape)[1], 'attention')
    if isinstance(heads, Number):
        log.read(weight, 1, heads * (weight.shape[1] // int(heads)), 'attention')


def _both(*names: str) -> list[Any]:
    """A function of torch and the method of tensors of the same name."""
    owners = (torch, Tensor)
    return [getattr(owner, name) for name in names for owner in owners if hasattr(owner, name)]


READERS: dict[Any, Reader] = {
    **{f: _shaped for f in _both('reshape', 'broadcast_to')},
    Tensor.view: _shaped,
    Tensor.expand: _shaped,
    **{f: _shaped_as for f in (Tensor.view_as, Tensor.reshape_as, Tensor.expand_as)},
    **{f: _unflattened for f in _both('unflatten')},
    **{f: _repeated for f in (Tensor.repeat,)},
    **{f: _split for f in _both('split', 'split_with_sizes')},
    **{f: _narrowed for f in _both('narrow')},
    Tensor.__getitem__: _indexed,
    Tensor.__setitem__: _indexed,
    F.pad: _padded,
    F.multi_head_attention_forward: _attended,
    **{f: _normalised for f in (F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm)},
    **{f: _grouped for f in (F.conv1d, F.conv2d, F.conv3d)},
}
"""Function -> what reads the sizes that it was given."""

FILLERS: dict[Any, int] = {
    **{function: 0 for function in (torch.zeros, torch.ones, torch.empty, torch.full, torch.eye)},
    **{
        function: 1
        for function in (
            Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full,
        )
    },
}  # fmt: skip
"""Function that makes a constant of one number -> position of its sizes."""

LIKE = frozenset(
    getattr(torch, f'{name}_like') for name in ('zeros', 'ones', 'empty', 'full', 'rand', 'randn')
)
"""Functions that make a tensor with the channels of another one."""

_REPEATING = frozenset({Tensor.repeat, Tensor.expand})

ARITHMETIC = frozenset(
    _both(
        'add', 'sub', 'mul', 'div', 'true_divide', 'pow', 'rsub', 'multiply', 'divide', 'subtract',
        'addcmul', 'addcdiv', 'clamp', 'floor_divide', 'add_', 'sub_', 'mul_', 'div_', 'pow_',
    )
    + [
        getattr(Tensor, f'__{name}__')
        for name in (
            'add', 'radd', 'iadd', 'sub', 'rsub', 'isub', 'mul', 'rmul', 'imul', 'truediv',
            'rtruediv', 'itruediv', 'pow', 'rpow', 'floordiv', 'rfloordiv',
        )
    ]
    + [torch.tensor, torch.as_tensor, torch.scalar_tensor, Tensor.new_tensor, Tensor.fill_]
)  # fmt: skip
"""Functions of tensors and numbers in which a number is a quantity."""

NUMELS = (Tensor.numel, Tensor.nelement, torch.numel)
"""The functions that give the number of a tensor's elements."""
SIZES = frozenset({Tensor.shape.__get__, Tensor.size, *NUMELS})  # type: ignore[attr-defined]
"""The functions that give the sizes of a tensor, or their product."""


def filters_shown(log: NumberLog, func: Any, args: tuple) -> tuple:
    """The arguments of a call, a constant filter that it makes as many of as numbers say shown.

    A depthwise convolution has the same filter, or filters, for each of its channels.
    """
    if func not in _REPEATING:
        return args
    source, numbers = args[0], _sequence(args[1:])
    is_filter = 2 < source.dim() < 6 and source.shape[1] == 1 and len(numbers) == source.dim()
    is_constant = source.is_floating_point() and not source.requires_grad
    if is_filter and is_constant and isinstance(numbers[0], Number):
        return (log.constants.show(source.detach(), log.token, is_uniform=False), *args[1:])
    return args


def watch(log: NumberLog, func: Any, args: tuple, kwargs: Kwargs, result: Any) -> Any:
    """Note the numbers that a call was given; what the call gives instead of ``result``."""
    if not args:
        args, kwargs = _by_place(kwargs)
    if func in SIZES:
        return _size(log, func, args, kwargs)
    if func in FILLERS:
        return _filled(log, func, args[FILLERS[func] :], kwargs, result)
    reader = READERS.get(func)
    if reader is not None:
        reader(log, args, kwargs, result)
    elif func in ARITHMETIC:
        for value in args:
            if isinstance(value, Number):
                log.note_scale(value)
    return result


def _by_place(kwargs: Kwargs) -> tuple[tuple, Kwargs]:
    """The first argument, given by its name, as if it were given by its place."""
    name = next((name for name in ('input', 'tensor') if name in kwargs), None)
    if name is None:
        return (), kwargs
    return (kwargs[name],), {key: value for key, value in kwargs.items() if key != name}


def alike(log: NumberLog, source: Tensor, made: Tensor) -> Tensor:
    """A tensor that was made in the likeness of another one, with the channels of that."""
    is_part = source.requires_grad and made.is_floating_point() and made.device == source.device
    return log.constants.show(made, source) if is_part else made


def _size(log: NumberLog, func: Any, args: tuple, kwargs: Kwargs) -> Any:
    sizes = log.size(args[0], args[0].shape)
    if func in NUMELS:
        return math.prod(sizes)
    dim = args[1] if len(args) > 1 else kwargs.get('dim')
    return sizes if dim is None else sizes[dim]


def _filled(log: NumberLog, func: Any, args: tuple, kwargs: Kwargs, made: Any) -> Any:
    """A constant as wide as numbers that are no constants, as part of the graph."""
    sizes: Sequence[Any] = args or (kwargs.get('size', ()),)
    sizes = sizes[0] if isinstance(sizes[0], tuple | list) else sizes
    if func is torch.eye:
        sizes = [*args, kwargs.get('m', args[-1])][:2] if args else ()
    is_wide = any(isinstance(size, Number) for size in sizes)
    is_number = made.is_floating_point() or made.is_complex()
    if not (is_wide and is_number and len(sizes) == made.dim()):
        return made
    if made.requires_grad or 'out' in kwargs or origin_of(0) == TORCH:
        return made
    result = log.constants.show(made, log.token, is_uniform=func is not torch.eye)
    for dim, size in enumerate(sizes):
        log.read(result, dim, size, 'a constant')
    return result
