"""The base of what watches, or changes, every call of a function of torch."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class FunctionMode(TorchFunctionMode, abc.ABC):
    """Within it, ``_call`` is called in the place of every function of torch."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._call(func, args, dict(kwargs) if kwargs else {})

    @abc.abstractmethod
    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What a call of ``func`` gives; the arguments are this method's own."""
