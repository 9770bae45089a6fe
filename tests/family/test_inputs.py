"""Models that take more than images are looked at with what their training has."""

import pytest
from tiny_models import TINY, prepared

from mmprune.testing import scattered

LEFT = {'Sparse R-CNN': 0.3, 'DETR': 0.8, 'Deformable DETR': 0.8, 'SimCC': 0.99, 'RTMPose': 0.6}
"""Share of the parameters that may stay at half of the channels, where it is more than 0.5."""
NOT_WALKED = {'Deformable DETR': {'train'}}
"""Its head takes what the first stage gives in ``mode='loss'`` alone."""


@pytest.mark.parametrize('name', TINY)
def test_prepared_and_exact_on_every_road(name: str) -> None:
    model, pruner, _ = prepared(name)
    assert set(pruner.supernet.not_walked()) == NOT_WALKED.get(name, set())
    subnet, full = scattered(pruner), pruner.cost()['params']
    report = pruner.verify_subnet(model, subnet)
    assert report.ok, report
    assert report.tolerance == 1e-10
    assert 'loss' in report.roads
    pruner.set_subnet(subnet)
    left = pruner.cost()['params'] / full
    assert left < LEFT.get(name, 0.5)
