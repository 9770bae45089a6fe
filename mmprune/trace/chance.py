"""Training without chance, so that two runs of a network can be compared.

Dropout over channels draws as many numbers as there are channels, so that a subnet, the full
network with masks and a deployed one draw different ones. Without chance nothing is dropped, and
numbers that a forward pass draws by itself are all alike.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmprune.trace.function_mode import FunctionMode

_DROPOUTS = frozenset(
    name + inplace
    for name in (
        'dropout', 'dropout1d', 'dropout2d', 'dropout3d', 'alpha_dropout', 'feature_dropout',
        'feature_alpha_dropout',
    )
    for inplace in ('', '_')
)  # fmt: skip
# Close to 1: ``rand() < p`` drops nothing, and ``floor(keep + rand())`` keeps.
_DRAWN = {
    'rand': 0.999, 'rand_like': 0.999, 'randn': 0.5, 'randn_like': 0.5, 'bernoulli': 1.0,
    'bernoulli_': 1.0, 'exponential_': 1.0,
}  # fmt: skip
_BETWEEN = {'uniform_': (0.0, 1.0, 0.999), 'normal_': (0.0, 1.0, 0.5)}


class WithoutChance(FunctionMode):
    """Within it, nothing is dropped, and random numbers are constants.

    Orders and choices (``randperm``, ``randint``) are drawn as ever.
    """

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        name = getattr(func, '__name__', '')
        if name in _DROPOUTS:
            return args[0] if args else kwargs['input']
        if name in ('rrelu', 'rrelu_'):
            kept = {key: kwargs[key] for key in ('input', 'lower', 'upper') if key in kwargs}
            return F.rrelu(*args[:3], **kept)
        if name in _DRAWN:
            return _filled(func(*args, **kwargs), _DRAWN[name])
        if name in _BETWEEN:
            return _filled(func(*args, **kwargs), _between(name, args, kwargs))
        change = _UNDROPPED.get(name)
        return func(*args, **kwargs) if change is None else change(func, args, kwargs)


def _filled(drawn: torch.Tensor, value: float) -> torch.Tensor:
    with torch.no_grad():
        return drawn.fill_(value)


def _between(name: str, args: tuple, kwargs: Mapping[str, Any]) -> float:
    low, high, share = _BETWEEN[name]
    names = [key for key in ('from', 'mean', 'to', 'std') if key in kwargs]
    given = [*args[1:3], *(kwargs[key] for key in names)]
    low, high = given if len(given) == 2 else (low, high)
    return float(low + share * (high if name == 'normal_' else high - low))


def _attention(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """The fifth argument of attention is the share that is dropped."""
    kwargs.pop('dropout_p', None)
    return func(*args[:4], *((0.0,) if len(args) > 4 else ()), *args[5:], **kwargs)


def _multi_head(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """The eleventh argument of ``multi_head_attention_forward`` is."""
    if 'dropout_p' in kwargs:
        kwargs['dropout_p'] = 0.0
    return func(*args[:10], *((0.0,) if len(args) > 10 else ()), *args[11:], **kwargs)


def _recurrent(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """The only float of a recurrent layer is."""
    return func(*(0.0 if isinstance(arg, float) else arg for arg in args), **kwargs)


_UNDROPPED: dict[str, Callable[..., Any]] = {
    'scaled_dot_product_attention': _attention,
    'multi_head_attention_forward': _multi_head,
    **dict.fromkeys(('lstm', 'gru', 'rnn_tanh', 'rnn_relu'), _recurrent),
}


@contextlib.contextmanager
def without_chance() -> Iterator[None]:
    """Context of ``WithoutChance`` in which Python's and numpy's numbers are always the same.

    Nor does it depend on other processes: a SyncBN takes the statistics of its own batch.
    """
    before = random.getstate(), np.random.get_state(), nn.SyncBatchNorm.forward
    random.seed(0)
    np.random.seed(0)
    nn.SyncBatchNorm.forward = nn.modules.batchnorm._BatchNorm.forward  # type: ignore[method-assign]
    try:
        with WithoutChance():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        nn.SyncBatchNorm.forward = before[2]  # type: ignore[method-assign]
