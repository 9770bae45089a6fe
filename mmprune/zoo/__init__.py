"""The zoo: networks of mmcls, pruned and compared with themselves in four ways."""

from mmprune.zoo.check import ZooResult, check_model
from mmprune.zoo.independent import zeroed
from mmprune.zoo.models import ZOO, build, images, randomise, resolve

__all__ = ['ZOO', 'ZooResult', 'build', 'check_model', 'images', 'randomise', 'resolve', 'zeroed']
