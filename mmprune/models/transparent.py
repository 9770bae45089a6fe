"""An algorithm that looks like the network in it, for hooks and constructors of optimizers."""

from __future__ import annotations

import functools
from typing import Any

from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmprune.wrappers import without_wrapper

_STORES = ('_modules', '_parameters', '_buffers')


class Transparent(BaseModel):
    """A model whose ``architecture`` shows through it.

    Hooks look into ``runner.model``: they read its attributes and write to them
    (``model.bbox_head.use_l1 = True``). Where the algorithm has none of that name, they are those
    of the architecture. Constructors of optimizers go by how the names of parameters begin
    (``backbone.stages.0``), so they are given the architecture, see ``_see_through``.
    """

    def __getattr__(self, name: str) -> Any:
        """What the algorithm lacks, the architecture may have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            inside = _architecture_of(self)
            if inside is None or name.startswith('__'):
                raise
            return getattr(inside, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute where it is."""
        inside = _architecture_of(self)
        is_own = inside is None or name in self.__dict__ or hasattr(type(self), name)
        if is_own or any(name in self.__dict__[store] for store in _STORES):
            super().__setattr__(name, value)
        elif hasattr(inside, name):
            setattr(inside, name, value)
        else:
            super().__setattr__(name, value)

    def for_optimizers(self) -> list[nn.Module]:
        """What constructors of optimizers are given, one after the other."""
        inside = _architecture_of(self)
        return [] if inside is None else [inside]


def _architecture_of(model: nn.Module) -> nn.Module | None:
    """The network in an algorithm, if that is ready."""
    found: nn.Module | None = model.__dict__.get('_modules', {}).get('architecture')
    return found


def _see_through(kind: type[DefaultOptimWrapperConstructor]) -> None:
    """Let a class of constructors, and those derived from it, see architectures as they are.

    mmengine's runner calls them with the whole algorithm, or what is around it in distributed
    training, and asks nobody. Parameters beside the architecture's are a group of their own.
    """
    construct = kind.__call__

    @functools.wraps(construct)
    def of_architecture(self: Any, model: nn.Module) -> OptimWrapper:
        algorithm: Any = without_wrapper(model)
        if not isinstance(algorithm, Transparent):
            return construct(self, model)
        first, *others = parts = algorithm.for_optimizers()
        wrapper = construct(self, first)
        for module in others:
            if next(module.parameters(), None) is not None:
                for group in construct(self, module).optimizer.param_groups:
                    wrapper.optimizer.add_param_group(group)
        inside = {parameter for module in parts for parameter in module.parameters()}
        beside = [p for p in algorithm.parameters() if p not in inside and p.requires_grad]
        if beside:
            wrapper.optimizer.add_param_group({'params': beside})
        return wrapper

    kind.__call__ = of_architecture


_see_through(DefaultOptimWrapperConstructor)
