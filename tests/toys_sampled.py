"""Toy networks that read and write at places which are data, and their expected groups.

What is a function of autograd in mmcv or mmdet is one here too, with the same name and inputs.
"""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv, toys_of


def function_of(package, name, compute, **attributes):
    """What applies ``compute`` to tensors as a function of a package does, of this name."""

    def forward(ctx, *tensors):
        vars(ctx).update(attributes)
        ctx.save_for_backward(*tensors)
        return compute(*tensors)

    def backward(ctx, grad):
        with torch.enable_grad():
            tensors = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
            wanted = [t for t in tensors if t.requires_grad]
            grads = iter(torch.autograd.grad(compute(*tensors), wanted, grad, allow_unused=True))
        return tuple(next(grads) if t.requires_grad else None for t in tensors)

    members = dict(forward=staticmethod(forward), backward=staticmethod(backward))
    members['__module__'] = f'{package}.ops'
    return type(name, (torch.autograd.Function,), members).apply


def cut(images, boxes):
    """Regions (K, C, 2, 2) of images; a box is the number of its image and a corner."""
    return torch.stack([images[n, :, y : y + 2, x : x + 2] for n, y, x in boxes.long().tolist()])


roi_align = function_of('mmcv', 'RoIAlignFunction', cut)
sigmoid_mean = function_of(
    'mmdet', 'SigmoidGeometricMean', lambda x, y: (x.sigmoid() * y.sigmoid()).sqrt()
)


class RegionsOfLevels(Toy):
    """Regions of two levels, written to where their boxes stand, as two-stage detectors do."""

    GROUPS = {'a': (8, {'a', 'b'}, {'b', 'fc'}), 'fc': (6, {'fc'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.channels = 8
        self.a, self.b = conv(3, 8), conv(8, 8, stride=2)
        self.fc, self.head = nn.Linear(8 * 4, 6), nn.Linear(6, 4)

    def forward(self, x):
        boxes = torch.tensor([[0, 1, 1], [1, 2, 0], [0, 0, 2], [1, 1, 2]]).to(x)
        a = self.a(x)
        found = a.new_zeros(len(boxes), self.channels, 2, 2)
        for level, images in enumerate((a, self.b(a))):
            places = (torch.arange(4) % 2 == level).nonzero().squeeze(1)
            found[places] = roi_align(images, boxes[places])
        return self.head(F.relu(self.fc(found.flatten(1))))


class WrittenByMask(Toy):
    """Places that a mask of two dims picks get what a layer gives; rows are read by one."""

    GROUPS = {'a': (8, {'a', 'b'}, {'b', 'c'}), 'c': (5, {'c'}, {'head'})}
    INPUT = (2, 4, 3)
    PINNED = frozenset({'head', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
        x = F.relu(self.a(x))
        y = x.clone()
        y[mask] = self.b(x[mask])
        return self.head(F.relu(self.c(y)))


class WrittenChannels(Toy):
    """Channels that are written by their number stay, also where a constant is written."""

    GROUPS = {'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head'})
    REASONS = {
        'a': 'IndexPutBackward0 in the root module writes to some of the channels',
        **{name: '' for name in ('a.weight', 'c.weight')},
    }

    def __init__(self):
        super().__init__()
        self.a, self.c, self.head = conv(3, 8), conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.a(x)
        x[:, torch.tensor([1, 4])] = 0.5
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class WrittenOut(Toy):
    """The larger of two is written into a part of what is as wide as a layer says."""

    GROUPS = {'a': (8, {'a', 'b'}, {'c'}), 'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(3, 8), conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        with torch.no_grad():
            made = a.new_zeros(a.shape)
            part = made[:, :, 2:6]
            torch.max(part, b.detach()[:, :, 2:6], out=part)
        return self.head(F.relu(self.c(a + made)).mean((2, 3)))


class PlacesOfMaxima(Toy):
    """Where the largest of each channel was, another layer's features are put, or taken from."""

    GROUPS = {
        'a': (6, {'a', 'b', 'c'}, {'b', 'c', 'd'}),
        'd': (5, {'d'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 6), conv(6, 6), conv(6, 6), conv(6, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.a(x)
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        y = F.max_unpool2d(self.b(pooled), places, 2)
        places = x.flatten(2).topk(5, 2).indices
        z = self.c(x).flatten(2).gather(2, places).mean(2)
        return self.head(self.d(y * z[:, :, None, None]).mean((2, 3)))


class SortedPlaces(Toy):
    """Places in the order of a score, the best of them, and the others' largest values."""

    GROUPS = {'a': (8, {'a'}, {'b', 'score'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight'})
    INPUT = (2, 9, 3)

    def __init__(self):
        super().__init__()
        self.a, self.score, self.b = nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        order = self.score(x).sigmoid().sort(dim=1, descending=True)[1]
        best = x.gather(1, order[:, :5].expand(-1, -1, x.shape[-1]))
        largest = self.b(x).sort(dim=1)[0][:, -5:]
        return self.head(F.relu(self.b(best) + largest + self.b(x).topk(5, dim=1)[0]))


class GeometricMean(Toy):
    """Two branches whose sigmoids are averaged."""

    GROUPS = {'a': (8, {'a', 'b'}, {'c'}), 'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(3, 8), conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = sigmoid_mean(self.a(x), self.b(x))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class NamesakeOfAnother(GeometricMean):
    """A function of the same name from elsewhere, which does something else."""

    GROUPS = {'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head'})
    REASONS = {
        'a': 'SoftmaxBackward0 in the root module normalises over the channels',
        **{name: '' for name in ('a.weight', 'b.weight', 'c.weight')},
    }

    def forward(self, x):
        norm = function_of('mine', 'SigmoidGeometricMean', lambda x, y: (x + y).softmax(1))
        return self.head(F.relu(self.c(norm(self.a(x), self.b(x)))).mean((2, 3)))


class Deformed(nn.Module):
    """A 3x3 convolution that reads where offsets say, for each of two blocks of its inputs."""

    NAME = 'ModulatedDeformConv2dFunction'

    def __init__(self, inputs, outputs, blocks=2):
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.randn(outputs))
        self.offsets = conv(inputs, blocks * 3 * 9)

    def forward(self, x):
        y, x_, mask = self.offsets(x).chunk(3, dim=1)
        given = dict(groups=1, deform_groups=self.blocks)
        function = function_of('mmcv', self.NAME, self.compute, **given)
        return function(x, torch.cat([y, x_], 1), mask.sigmoid(), self.weight, self.bias)

    def compute(self, x, offsets, mask, weight, bias):
        assert weight.is_contiguous()  # as mmcv wants it
        (n, _, h, w), blocks = x.shape, self.blocks
        shape = (n * blocks, 9, h, w)
        around = torch.meshgrid(*[torch.arange(-1, 2)] * 2, indexing='ij')
        grid = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        places = [
            2 * (o.reshape(shape) + a.reshape(1, 9, 1, 1) + g + 0.5) / size - 1
            for o, a, g, size in zip(offsets.chunk(2, 1), around, grid, (h, w), strict=True)
        ]
        places = torch.stack(places[::-1], dim=-1).flatten(2, 3)
        read = F.grid_sample(x.reshape(n * blocks, -1, h, w), places, align_corners=False)
        read = read * mask.reshape(n * blocks, 1, 9, h * w)
        return torch.einsum('ncl,oc->nol', read.reshape(n, -1, h * w), weight.flatten(1)).reshape(
            n, -1, h, w
        ) + bias.reshape(1, -1, 1, 1)


class DeformedConvolution(Toy):
    """A deformable convolution is cut as a convolution, its offsets in their inputs only."""

    GROUPS = {
        'a': (8, {'a', 'norm'}, {'b', 'b.offsets'}),
        'b': (6, {'b', 'after'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.offsets'})

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), Deformed(8, 6)
        self.after, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(F.relu(self.norm(self.a(x))))
        return self.head(F.relu(self.after(x)).mean((2, 3)))


class Sines(nn.Module):
    """Fixed positions of an image's places, as many channels as ``2 feats``."""

    def __init__(self, feats):
        super().__init__()
        self.feats = feats

    def forward(self, mask):
        rates = 10 ** (torch.arange(self.feats) / self.feats).to(mask)
        y, x = mask.cumsum(1)[..., None] / rates, mask.cumsum(2)[..., None] / rates
        return torch.cat([y.sin(), x.cos()], dim=3).permute(0, 3, 1, 2)


class FixedPositions(Toy):
    """Sines that are added to the features of two levels lose what these lose."""

    GROUPS = {'a': (8, {'a', 'b'}, {'b', 'c'}), 'c': (5, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.positions = conv(3, 8), conv(8, 8, stride=2), Sines(4)
        self.c, self.head = nn.Linear(8, 5), nn.Linear(5, 4)

    def at(self, x):
        mask = torch.ones(x.shape[0], *x.shape[2:], dtype=x.dtype, device=x.device)
        return F.relu(x + self.positions(mask)).flatten(2).transpose(1, 2)

    def forward(self, x):
        x = self.a(x)
        return self.head(F.relu(self.c(torch.cat([self.at(x), self.at(self.b(x))], dim=1))))


class KeywordsOfConvolution(Toy):
    """A convolution of each channel by itself that is given all by name."""

    GROUPS = {'a': (8, {'a', 'weight'}, {'weight', 'b'}), 'b': (5, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.weight = conv(3, 8), nn.Parameter(torch.randn(8, 1, 3, 3))
        self.b, self.head = conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.a(x)
        x = F.conv2d(input=x, weight=self.weight, groups=x.shape[1])
        return self.head(F.relu(self.b(x)).mean((2, 3)))


def attend(values, sizes, starts, places, weights):
    """Values (n, keys, heads, c) at places (n, queries, heads, levels, points, 2) of 3x3 keys."""
    n, _, heads, channels = values.shape
    images = values.permute(0, 2, 3, 1).reshape(n * heads, channels, 3, 3)
    grid = 2 * places[..., 0, :, :].transpose(1, 2).flatten(0, 1) - 1
    read = F.grid_sample(images, grid, align_corners=False)
    sums = (read * weights[..., 0, :].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return sums.reshape(n, heads * channels, -1).transpose(1, 2)


deform_attention = function_of('mmcv', 'MultiScaleDeformableAttnFunction', attend)


class DeformableAttention(Toy):
    """Each head loses as many channels, as on a GPU, where this is one function."""

    GROUPS = {
        'a': (12, {'a'}, {'value', 'places', 'weights'}),
        'value': (16, {'value'}, {'out'}),
        'out': (6, {'out'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'places', 'weights'})
    INPUT = (2, 9, 3)

    def __init__(self):
        super().__init__()
        self.heads, self.points = 4, 2
        self.a, self.value = nn.Linear(3, 12), nn.Linear(12, 16)
        self.places, self.weights = nn.Linear(12, 4 * 2 * 2), nn.Linear(12, 4 * 2)
        self.out, self.head = nn.Linear(16, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        n, keys, _ = x.shape
        values = self.value(x).view(n, keys, self.heads, -1)
        places = self.places(x).view(n, keys, self.heads, 1, self.points, 2).sigmoid()
        weights = self.weights(x).view(n, keys, self.heads, self.points).softmax(-1)
        weights = weights.view(n, keys, self.heads, 1, self.points)
        sizes, starts = torch.tensor([[3, 3]]), torch.tensor([0])
        return self.head(self.out(deform_attention(values, sizes, starts, places, weights)))


TOYS = toys_of(globals())
