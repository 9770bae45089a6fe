"""The channel groups of a network as a picture, drawn from plain data."""

from mmprune.report.drawing.picture import Picture, Share, draw
from mmprune.report.drawing.rows import Row, Run, rows_of

__all__ = ['Picture', 'Row', 'Run', 'Share', 'draw', 'rows_of']
