"""A small network with one layer of each kind, and pruners on it, for tests of files and errors."""

import contextlib
import copy

import torch
from randomised import randomise, scattered
from torch import nn

from mmprune.registry import PRUNERS


class Scale(nn.Module):
    """A scale per channel, which follows from no layer's inputs or outputs."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, data):
        return data * self.gamma


class SmallNetwork(nn.Module):
    """Two groups: the 8 channels of the stem, which a residual ties, and 12 inside the block."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.expand = nn.Conv2d(8, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.reduce = nn.Conv2d(12, 8, 1)
        self.scale = Scale(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, data):
        data = self.stem(data)
        inside = self.norm(self.expand(self.depthwise(data))).relu()
        data = data + self.scale(self.reduce(inside))
        return self.fc(data.mean((2, 3)))


STEM, INSIDE = 'stem.0', 'expand'
"""The space_id of the two groups."""
LAYERS = ('stem.0', 'stem.1', 'depthwise', 'expand', 'norm', 'reduce', 'fc')
"""The convolutions, norms and linear layers, in order."""


def small_network():
    return randomise(SmallNetwork().double()).eval()


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)


def new_pruner(**options):
    return PRUNERS.build({'type': 'RatioPruner', 'ratios': [0.5, 1.0], **options})


def prepared(seed=0):
    """A network and its pruner, at a subnet that keeps other than the first channels."""
    model, pruner = small_network(), new_pruner()
    pruner.prepare_from_supernet(model, demo_input=images())
    pruner.set_subnet(scattered(pruner, seed))
    return model, pruner


def razor_cfg(stem=4, inside=6):
    """A channel config as MMRazor 0.x writes it: the first channels, no word about the scale."""

    def entry(channels):
        names = ('in_channels', 'out_channels', 'raw_in_channels', 'raw_out_channels')
        return dict(zip(names, channels, strict=True))

    def norm(kept, raw):
        return {'out_channels': kept, 'raw_out_channels': raw}

    return {
        'stem.0': entry((3, stem, 3, 8)),
        'stem.1': norm(stem, 8),
        'depthwise': entry((stem, stem, 8, 8)),
        'expand': entry((stem, inside, 8, 12)),
        'norm': norm(inside, 12),
        'reduce': entry((inside, stem, 12, 8)),
        'fc': entry((stem, 5, 8, 5)),
    }


def _state(model):
    """Everything that a mistake could have changed: tensors, attributes, forwards, hooks."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if isinstance(value, int | float | str | tuple | bool | None):
                attributes[name, key] = value
            elif key not in ('_parameters', '_buffers', '_modules'):
                size = len(value) if isinstance(value, dict | list) else 0
                attributes[name, key] = (id(value), size)
    return tensors, attributes


@contextlib.contextmanager
def nothing_changes(model, pruner=None, folder=None):
    """Fail if the block changes the model, the subnet that is set, or a file in ``folder``."""

    def files():
        return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()} if folder else {}

    data = images().to(next(model.parameters()).dtype)
    tensors, attributes = _state(model)
    written, subnet = files(), copy.deepcopy(pruner.current_subnet()) if pruner else {}
    with torch.no_grad():
        output = model(data)
    yield
    after, attributes_after = _state(model)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    assert attributes_after == attributes
    assert files() == written
    if pruner:
        now = pruner.current_subnet()
        assert now.keys() == subnet.keys()
        assert all(torch.equal(now[space_id], mask) for space_id, mask in subnet.items())
    with torch.no_grad():
        assert torch.equal(model(data), output)
