"""How long subnets take on the device at hand: measured layer by layer, predicted for any."""

from mmprune.latency.building import build_table
from mmprune.latency.device import Device
from mmprune.latency.estimator import LatencyEstimator, TableLatency, data_of, widths_of_groups
from mmprune.latency.table import Correction, LatencyError, LatencyTable, MeasuredLayer
from mmprune.latency.timing import Times, interleaved

__all__ = [
    'Correction',
    'Device',
    'LatencyError',
    'LatencyEstimator',
    'LatencyTable',
    'MeasuredLayer',
    'TableLatency',
    'Times',
    'build_table',
    'data_of',
    'interleaved',
    'widths_of_groups',
]
