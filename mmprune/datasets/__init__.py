"""Datasets that need nothing to be downloaded."""

from mmprune.datasets.digits import Digits
from mmprune.datasets.mnist import Mnist

__all__ = ['Digits', 'Mnist']
