"""One forward pass of a model, read from the autograd graph into plain data."""

from mmprune.trace.trace_graph import TraceGraph, TraceNode
from mmprune.trace.tracer import TraceError, trace

__all__ = ['TraceError', 'TraceGraph', 'TraceNode', 'trace']
