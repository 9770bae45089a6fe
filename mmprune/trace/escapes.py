"""What the autograd graph does not show: values that leave it, constants that enter it."""

from __future__ import annotations

import bisect
import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from mmprune.trace.copies import may_write
from mmprune.trace.function_mode import FunctionMode
from mmprune.trace.masks import as_called, followed, shadow_of
from mmprune.trace.numbers import NumberLog
from mmprune.trace.recipes import Recipes
from mmprune.trace.recipes import flat_tensors as _tensors
from mmprune.trace.size_arguments import LIKE, SIZES, alike, filters_shown, watch
from mmprune.trace.stand_ins import FAITHFUL, StandIns
from mmprune.trace.writes import Writes

# They read the type and device of what they are given second, if that is a tensor, and no more.
_ALIKE = frozenset({'to', 'type_as'})
_NO_DERIVATIVE = re.compile(r"not differentiable with respect to argument '(\w+)'")
# They give a tensor's numbers to Python.
_TO_PYTHON = frozenset(
    {'item', 'tolist', 'numpy', '__array__', '__float__', '__int__', '__bool__', '__index__'}
)


class EscapeRecorder(FunctionMode):
    """Watches every call of a torch function during a trace.

    A tensor is *detached* if it was computed from tensors of the autograd graph and is not
    part of it: under ``no_grad``, by ``detach``, by a comparison or ``argmax``. If it is used
    again, or together with others, the graph does not tell what its channels met, and
    everything that it was computed from has *escaped*.

    Args:
        running: Gives the name of the module that is running.
        stand_ins: What is called in the place of a function.
        keep: Is told of tensors before something may be written to them.
        numbers: Is told of the numbers that calls are given, and gives out those that know where
            they come from.

    Attributes:
        escapes: Edges of the autograd graph that have escaped, each with the reason.
        writes: Which parts of tensors were written in place.
        recipes: How weights were computed from parameters.
        awaited: Statistics of norms by their ids, and their names.
        missed: Which of them other functions than norms were given.
        joined: The nodes of tensors that were computed from several others.
    """

    def __init__(
        self,
        running: Callable[[], str],
        stand_ins: StandIns = FAITHFUL,
        keep: Callable[[torch.Tensor], None] = lambda tensor: None,
        numbers: NumberLog | None = None,
    ) -> None:
        super().__init__()
        self.numbers = numbers
        self.running = running
        self.stand_ins = stand_ins
        self.keep = keep
        self.writes = Writes()
        self.recipes = Recipes()
        self.awaited: dict[int, str] = {}
        self.missed: set[str] = set()
        self.joined: list[Any] = []
        self.escapes: list[tuple[GradientEdge, str]] = []
        # By id; the tensor is held so that no other one gets its id.
        self._detached: dict[int, tuple[torch.Tensor, list[GradientEdge], str]] = {}
        self._starts: list[int] = []
        self._spans: list[tuple[int, tuple[tuple[int, ...], ...]]] = []

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.numbers is not None and func in SIZES:  # they give no tensors
            return watch(self.numbers, func, args, kwargs, func(*args, **kwargs))
        name, given = _name_of(func), _tensors((args, kwargs) if kwargs else args)
        masks = [t for t in given if shadow_of(t) is not None]
        if masks:
            func, args, kwargs = as_called(name, func, args, kwargs)
            name, given = _name_of(func), _tensors((args, kwargs))
            masks = [t for t in given if shadow_of(t) is not None]
        if name in _ALIKE:
            given = given[:1]
        # Other modes are not told of what is asked here.
        with torch._C.DisableTorchFunction():
            # A view made under no_grad claims to require grad, but has no edge.
            in_graph = [t for t in given if t.requires_grad and _has_edge(t)]
            producers = [(t, t.grad_fn, t.output_nr) for t in in_graph]  # may be another afterwards
            others = [t for t in given if not t.requires_grad and t.numel() > 1]
            constants = [t for t in others if shadow_of(t) is None]
            start = torch.autograd._get_sequence_nr()
            for tensor in given if may_write(name, func, args, kwargs) else ():
                self.keep(tensor)
        if self.numbers is not None and self.numbers.constants.write(name, func, args, kwargs):
            return args[0]
        args = args if self.numbers is None else filters_shown(self.numbers, func, args)
        is_written_out = in_graph and kwargs.get('out') is not None
        run = self._written_out if is_written_out else self._result
        result = run(func, args, kwargs)
        if self.numbers is not None:
            if func not in LIKE:
                result = watch(self.numbers, func, args, kwargs, result)
            elif self._sees_through:
                result = alike(self.numbers, given[0], result)
        with torch._C.DisableTorchFunction():
            shown = followed(name, func, args, kwargs, given, masks, result)
            result = result if shown is None else shown
            made = _tensors(result) if result is not None else given[:1]
            self.recipes.note(func, name, args, kwargs, given, made)
            self._note_joined(producers, made, start)
            if not (made or name in _TO_PYTHON):
                return result
            if self.awaited and not name.endswith('norm'):
                self.missed |= {self.awaited[id(t)] for t in constants if id(t) in self.awaited}
            masked = [t for mask in masks for t in self._detached.get(id(mask), ((), (), ''))[1]]
            for tensor in given if self._detached and shown is None else ():
                self.use(tensor)
            self.writes.note(name, args, result, start)
            if constants and any([t.requires_grad or shadow_of(t) is not None for t in made]):
                self._starts.append(start)
                shapes = tuple(tuple(t.shape) for t in constants)
                self._spans.append((torch.autograd._get_sequence_nr(), shapes))
            is_seen = all([t.requires_grad for t in made]) or self._is_in_function()
            if shown is not None and not is_seen:
                reason = self._reason(name)
                self._detached[id(result)] = (result, _edges(producers) + masked, reason)
            elif producers and (name in _TO_PYTHON or not is_seen):
                self._note_detached(name, given, made, _edges(producers))
        return result

    def _note_joined(self, producers: list[Any], made: list[torch.Tensor], start: int) -> None:
        """Remember what was computed, since ``start``, of several tensors."""
        if len([grad_fn for _, grad_fn, _ in producers if grad_fn is not None]) > 1:
            nodes = [t.grad_fn for t in made if t.grad_fn is not None]
            self.joined += [node for node in nodes if node._sequence_nr() >= start]

    def _result(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What a call gives; arguments that must not require grad escape into it.

        In the code's own run they do not: weights of a loss that comparisons have made.
        """
        try:
            return self.stand_ins.get(func, func)(*args, **kwargs)
        except RuntimeError as error:
            refused = _NO_DERIVATIVE.search(str(error))
            if refused is None or not inspect.isfunction(func):
                raise
            given = inspect.signature(func).bind(*args, **kwargs).arguments
            tensor = given.get(refused[1])
            if not isinstance(tensor, torch.Tensor):
                raise
        with torch._C.DisableTorchFunction():
            edges = _edges([(tensor, tensor.grad_fn, tensor.output_nr)])
            self.escapes.extend((edge, self._reason(_name_of(func))) for edge in edges)
            plain = tensor.detach()
        return self._result(func, (), {**given, refused[1]: plain})

    def _written_out(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What a call writes to ``out``: autograd refuses to, and the code's own run need not."""
        out = kwargs.pop('out')
        result = self._result(func, args, kwargs)
        for target, part in zip(_tensors(out), _tensors(result), strict=True):
            target.copy_(part)
        return out

    def _is_in_function(self) -> bool:
        """Whether a function of autograd is running, which is a node of the graph by itself.

        Nobody else has turned gradients off, if a trace keeps them on.
        """
        is_on = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        return self._sees_through and not is_on

    @property
    def _sees_through(self) -> bool:
        """Whether the graph shows what has no gradients."""
        return torch._C._set_grad_enabled in self.stand_ins

    def _note_detached(
        self,
        name: str,
        given: list[torch.Tensor],
        made: list[torch.Tensor],
        sources: list[GradientEdge],
    ) -> None:
        reason = self._reason(name)
        if name in _TO_PYTHON:
            self.escapes.extend((edge, reason) for edge in sources)
        for tensor in made:
            if tensor.requires_grad:
                continue
            if len(given) > 1:  # a call of several tensors needs their sizes to suit each other
                self.escapes.extend((edge, reason) for edge in sources)
            else:
                self._detached[id(tensor)] = (tensor, sources, reason)

    def _reason(self, name: str) -> str:
        where = self.running() or 'the root module'
        return f'{name} in {where} uses it outside of the autograd graph'

    def use(self, tensor: torch.Tensor) -> None:
        """Note that ``tensor`` was read: what it was computed from escapes if it is detached."""
        _, sources, reason = self._detached.pop(id(tensor), (None, (), ''))
        self.escapes.extend((edge, reason) for edge in sources)

    def constants_at(self, sequence: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the constants given to the call that made the node of this number."""
        index = bisect.bisect_right(self._starts, sequence) - 1
        if index < 0 or sequence >= self._spans[index][0]:
            return ()
        return self._spans[index][1]


def _edges(producers: Sequence[tuple[torch.Tensor, Any, int]]) -> list[GradientEdge]:
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        return [
            get_gradient_edge(tensor) if grad_fn is None else GradientEdge(grad_fn, number)
            for tensor, grad_fn, number in producers
            if grad_fn is not None or tensor.requires_grad  # unless the call has turned it off
        ]


def _has_edge(tensor: torch.Tensor) -> bool:
    return tensor.grad_fn is not None or not tensor._is_view()


def _name_of(func: Any) -> str:
    """``relu`` for a function, ``data`` for the getter of a property."""
    name = getattr(func, '__name__', type(func).__name__)
    return getattr(func.__self__, '__name__', name) if name == '__get__' else name
