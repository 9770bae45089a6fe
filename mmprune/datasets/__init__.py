"""Datasets that need nothing to be downloaded."""

from mmprune.datasets.digits import Digits

__all__ = ['Digits']
