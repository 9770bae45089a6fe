"""A real slimming run of YOLOv5s with 4 classes: its channels, and its parameters per layer.

The tables are files of ``tests/data``, whose README says where they are from.
"""

import csv
from pathlib import Path

DATA = Path(__file__).parent / 'data'


def _rows(name):
    with open(DATA / name, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


CHANNELS = {
    row['bn_layer']: (int(row['origin_channels']), int(row['remaining_channels']))
    for row in _rows('yolov5s_slimming_channels.csv')
}
"""Channels before and after, by norm."""

LAYERS = _rows('yolov5s_slimming_params.csv')
"""The network after slimming as the run has printed it, one row a layer."""

PARAMETERS = [int(row['params']) for row in LAYERS]
"""Of the 25 layers after slimming."""
