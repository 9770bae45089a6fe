"""The benchmark: what execution, tracing and cost take, beside plain networks and peers."""

from mmprune.bench.report import insert_into_docs
from mmprune.bench.rows import Row
from mmprune.bench.run import SECTIONS, BenchOptions, read_results, run_bench, show

__all__ = [
    'SECTIONS',
    'BenchOptions',
    'Row',
    'insert_into_docs',
    'read_results',
    'run_bench',
    'show',
]
