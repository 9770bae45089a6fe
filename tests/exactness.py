"""Prepare a network on an image, and prove that its subnets are the same wherever they run."""

import torch
from randomised import randomise, scattered
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.trace.tracer import tensors_in

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


def prepare(model, data=IMAGE, **kwargs):
    model = randomise(model.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **kwargs))
    pruner.prepare_from_supernet(model, data)
    return model, pruner


def assert_exact(model, pruner, data=IMAGE):
    """Sliced, masked and deployed agree for several subnets, no matter what is pinned."""
    for seed in range(3):
        subnet = scattered(pruner, seed)
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, report
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        with torch.no_grad():
            pairs = zip(tensors_in(model(data)), tensors_in(deployed(data)), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    pruner.set_max_channel()
