"""Networks of other packages in the zoo: called with what they are trained on, counted right."""

import pytest
import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from tiny_models import tiny

from mmprune.errors import InputError
from mmprune.zoo import FAMILY, Plan, resolve
from mmprune.zoo.check import check_network
from mmprune.zoo.models import drawn
from mmprune.zoo.running import counted_run


@pytest.mark.parametrize('name', ['Faster R-CNN', 'SimCC', 'DETR', 'Deformable DETR'])
def test_exact_and_counted_right(name: str) -> None:
    result = check_network(drawn(lambda: tiny(name), seed=0), name, Plan(size=64))
    assert result.problems == ()
    assert result.size == (192 if name == 'SimCC' else 64)
    assert result.independent_error < 1e-10
    assert result.kept < 1


def test_configs_are_named_as_a_base_is() -> None:
    assert len(set(FAMILY)) == len(FAMILY) == 43
    assert resolve(FAMILY[0]) == FAMILY[0]
    with pytest.raises(InputError, match=r'mmdet::retinanet/nothing\.py: there is no such config'):
        resolve('mmdet::retinanet/nothing.py')


@pytest.mark.parametrize(
    ('layer', 'places'), [(DeformConv2dPack, 2), (ModulatedDeformConv2dPack, 3)]
)
def test_deformable_convolutions_are_counted(layer: type, places: int) -> None:
    network = layer(8, 12, 3, padding=1, bias=False, groups=2, deform_groups=2)
    offsets = 8 * 9 * (2 * 9 * places)
    own = 12 * (8 // 2) * 9
    assert counted_run(network, torch.rand(2, 8, 5, 5))[1] == 2 * 5 * 5 * (offsets + own)
