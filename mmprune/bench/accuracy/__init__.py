"""The benchmark of accuracy: criteria and searches on the digits, beside Torch-Pruning."""

from mmprune.bench.accuracy.criteria import MEASURES
from mmprune.bench.accuracy.run import AccuracyOptions, run_accuracy
from mmprune.bench.accuracy.unit import Unit

__all__ = ['MEASURES', 'AccuracyOptions', 'Unit', 'run_accuracy']
