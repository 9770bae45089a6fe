"""Forward passes of a model, read from the autograd graph into plain data."""

from mmprune.trace.roads import Road
from mmprune.trace.trace_graph import TraceGraph, TraceNode, WalkedRoad
from mmprune.trace.tracer import TraceError
from mmprune.trace.walk_roads import trace

__all__ = ['Road', 'TraceError', 'TraceGraph', 'TraceNode', 'WalkedRoad', 'trace']
