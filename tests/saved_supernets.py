"""Prepared networks whose state dicts are saved and loaded, and how to compare them."""

import torch
from randomised import randomise, scattered
from torch import nn

from mmprune.registry import PRUNERS

DATA = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Network(nn.Module):
    """Convolutions, both kinds of norm, a grouped convolution, a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.b, self.group_norm = conv(8, 12), nn.GroupNorm(3, 12)
        self.c, self.fc, self.head = conv(12, 8, groups=2), nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.group_norm(self.b(x)))
        return self.head(torch.relu(self.fc(self.c(x).mean((2, 3)))))


class Algorithm(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        self.first = nn.BatchNorm1d(2)
        self.architecture = architecture

    def forward(self, x):
        return self.architecture(x)


def supernet(seed=0, execution='slice', wrap=lambda network: network):
    """A prepared network in eval mode and in double precision, and its pruner."""
    model = wrap(randomise(Network().double(), seed)).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, DATA)
    return model, pruner


def kept(subnet):
    return {space_id: mask.flatten().tolist() for space_id, mask in subnet.items()}


def masks_of(model):
    return {k: v for k, v in model.state_dict().items() if k.endswith('_mask')}


def contents(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=f'{name} differs')


def saved_supernet(folder):
    """A supernet with a subnet set, its pruner, and the file of its state dict."""
    model, pruner = supernet(seed=1)
    pruner.set_subnet(scattered(pruner))
    torch.save(model.state_dict(), folder / 'supernet.pth')
    return model, pruner, folder / 'supernet.pth'
