"""The benchmark: what execution, tracing and cost take, beside plain networks and peers."""
# ruff: noqa: E402  (what is measured are networks of mmcls)

from mmprune.dependencies import require

require('mmcls', "mmprune's benchmark")

from mmprune.bench.options import SECTIONS, BenchOptions
from mmprune.bench.report import insert_into_docs
from mmprune.bench.rows import Row
from mmprune.bench.run import read_results, run_bench, show

__all__ = [
    'SECTIONS',
    'BenchOptions',
    'Row',
    'insert_into_docs',
    'read_results',
    'run_bench',
    'show',
]
