"""Constants that a forward builds, as wide as numbers of the trace say: how they vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmprune.trace.composites import Composite

Tensor = torch.Tensor


class Filled(Composite):
    """Input: a token of the trace, or the tensor that the constant is made in the likeness of."""


class Constants:
    """The constants of a trace that were made a node of its graph.

    Code may write other constants into them (the ones of an identity), which is no node.
    """

    def __init__(self) -> None:
        # By id; the tensor is held so that no other one gets its id.
        self._open: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def show(self, made: Tensor, source: Tensor, is_uniform: bool = True) -> Tensor:
        """The constant as a node of the graph that comes from ``source``."""
        attrs: dict[str, Any] = {'varying': (), 'is_identity': False, 'is_uniform': is_uniform}
        result = Filled.apply(attrs, (made,), source)
        self._open[id(result)] = (result, attrs)
        return result

    def write(self, name: str, func: Callable[..., Any], args: tuple, kwargs: Mapping) -> bool:
        """Whether a call only writes constants into one of these, which is done then."""
        if not args or id(args[0]) not in self._open:
            return False
        if name != '__setitem__' and (not name.endswith('_') or name.endswith('__')):
            return False
        target, attrs = self._open[id(args[0])]
        if any(isinstance(own, Tensor) and own.requires_grad for own in args[1:]):
            self._close(id(target))
            return False
        attrs['is_uniform'] = False
        with torch.no_grad():
            func(target.detach(), *args[1:], **kwargs)
        return True

    def close(self) -> None:
        """Say of all of them how they vary."""
        for key in list(self._open):
            self._close(key)

    def _close(self, key: int) -> None:
        target, attrs = self._open.pop(key)
        if not attrs.pop('is_uniform'):
            attrs.update(_variation(target.detach()))


def _variation(data: Tensor) -> dict[str, Any]:
    """Along which dims numbers differ, and whether they are an identity along the first two."""
    varying = tuple(
        dim for dim, size in enumerate(data.shape)
        if size > 1 and not bool((data == data.narrow(dim, 0, 1)).all())
    )  # fmt: skip
    is_identity = varying[:2] == (0, 1) and data.shape[0] == data.shape[1]
    if is_identity:
        diagonal = data.diagonal(dim1=0, dim2=1)
        is_same = bool((diagonal == diagonal[..., :1]).all())
        is_identity = is_same and bool(data.count_nonzero() == diagonal.count_nonzero())
    return {'varying': varying[2:] if is_identity else varying, 'is_identity': is_identity}
