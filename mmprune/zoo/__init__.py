"""The zoo: networks of OpenMMLab, pruned and compared with themselves in four ways."""

from mmprune.zoo.check import Plan, ZooResult, check_model
from mmprune.zoo.independent import zeroed
from mmprune.zoo.models import build, images, resolve
from mmprune.zoo.networks import FAMILY, ZOO

__all__ = [
    'FAMILY',
    'ZOO',
    'Plan',
    'ZooResult',
    'build',
    'check_model',
    'images',
    'resolve',
    'zeroed',
]
