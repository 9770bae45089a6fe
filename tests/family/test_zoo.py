"""Networks of other packages in the zoo: called with what they are trained on, counted right."""

import pytest
from tiny_models import tiny

from mmprune.errors import InputError
from mmprune.zoo import FAMILY, Plan, resolve
from mmprune.zoo.check import check_network
from mmprune.zoo.models import drawn


@pytest.mark.parametrize('name', ['Faster R-CNN', 'SimCC'])
def test_exact_and_counted_right(name: str) -> None:
    result = check_network(drawn(lambda: tiny(name), seed=0), name, Plan(size=64))
    assert result.problems == ()
    assert result.size == (64 if name == 'Faster R-CNN' else 192)
    assert result.independent_error < 1e-10
    assert result.kept < 1


def test_configs_are_named_as_a_base_is() -> None:
    assert len(set(FAMILY)) == len(FAMILY) == 43
    assert resolve(FAMILY[0]) == FAMILY[0]
    with pytest.raises(InputError, match=r'mmdet::retinanet/nothing\.py: there is no such config'):
        resolve('mmdet::retinanet/nothing.py')
