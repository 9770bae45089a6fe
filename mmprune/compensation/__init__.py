"""After the cut: weights that make up for what was removed, from images without labels."""

from mmprune.compensation.compensate import batches_of, built_method, compensate, run_inputs
from mmprune.compensation.methods import Compensation, LeastSquares, MeanFolding
from mmprune.compensation.report import CompensationReport, Fit

__all__ = [
    'Compensation',
    'CompensationReport',
    'Fit',
    'LeastSquares',
    'MeanFolding',
    'batches_of',
    'built_method',
    'compensate',
    'run_inputs',
]
