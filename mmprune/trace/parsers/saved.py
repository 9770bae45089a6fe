"""How to read what an autograd node has saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmprune.registry import BACKWARD_PARSERS

Parsed = tuple[str, dict[str, Any]]
Parser = Callable[[Any], Parsed]


def plain(value: Any) -> Any:
    """Saved ints with their sign, which autograd saves as uint64; sequences as tuples of them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value - 2**64 if value >= 2**63 else value
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return value


def register(op: str, *names: str, **attrs: str) -> None:
    """Register parsers that only rename: ``attrs`` maps ours to autograd's saved name."""

    def parse(grad_fn: Any) -> Parsed:
        return op, {
            ours: plain(getattr(grad_fn, '_saved_' + theirs)) for ours, theirs in attrs.items()
        }

    for name in names:
        BACKWARD_PARSERS.register_module(name=name, module=parse)


def register_composite(op: str, name: str) -> None:
    """Register the parser of a node that a trace has made, see ``mmprune.trace.composites``."""
    BACKWARD_PARSERS.register_module(name=name, module=lambda node: (op, dict(node.attrs)))


def parser(*names: str) -> Callable[[Parser], Parser]:
    """Decorator that registers a parser under several names."""

    def decorate(function: Parser) -> Parser:
        BACKWARD_PARSERS.register_module(name=list(names), module=function)
        return function

    return decorate
