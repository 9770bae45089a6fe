"""Registers rules of operations that are given one tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmprune.channels.labels import LabelBook, Value
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode

Rule = TypeVar('Rule', bound=Callable[[TraceNode, Value, LabelBook], Value | list[Value]])


def of_one(*operations: str) -> Callable[[Rule], Rule]:
    """Register ``rule(node, value, book)`` as the channel rule of these operations."""

    def register(rule: Rule) -> Rule:
        def registered(
            node: TraceNode, inputs: list[Value | None], book: LabelBook
        ) -> Value | list[Value]:
            (value,) = (v for v in inputs if v is not None)
            return rule(node, value, book)

        CHANNEL_RULES.register_module(name=list(operations), module=registered)
        return rule

    return register
