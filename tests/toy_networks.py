"""Toy networks that carry their answers: what mmprune must find in each of them.

``GROUPS`` maps a space_id to (channels, layers that make them, layers that read them);
layers are sets of names. ``PINNED`` lists the other groups that are expected, and ``REASONS``
those whose reason is part of the answer.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Toy(nn.Module):
    INPUT = (2, 3, 8, 8)
    PINNED = frozenset({'head', 'a.weight'})
    REASONS = {}
    OPTIONS = {}
    """Of the pruner."""
    PICKLES = True
    """Whether torch can pickle the network itself."""
    UNCOUNTED = 0
    """FLOPs of layers that a trace does not reach."""


def toys_of(namespace, *bases):
    """The toys that a module defines, in order, without these that others are derived from."""
    return [
        value
        for value in namespace.values()
        if isinstance(value, type)
        and issubclass(value, Toy)
        and value not in (Toy, *bases)
        and value.__module__ == namespace['__name__']
    ]


class Chain(Toy):
    """Conv, norm, relu, conv, pooling, linear."""

    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.head = (
            conv(3, 8),
            nn.BatchNorm2d(8),
            conv(8, 6),
            nn.Linear(6, 4),
        )

    def forward(self, x):
        x = self.b(F.relu(self.norm(self.a(x))))
        return self.head(x.mean((2, 3)))


class ConcatBeforeNorm(Toy):
    """A norm after a concatenation, as in DenseNet."""

    GROUPS = {
        'a': (8, {'a', 'norm'}, {'c'}),
        'b': (6, {'b', 'norm'}, {'c'}),
        'c': (5, {'c'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 8), conv(3, 6), nn.BatchNorm2d(14)
        self.c, self.head = conv(14, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = torch.cat([self.a(x), self.b(x)], dim=-3)
        return self.head(self.c(F.relu(self.norm(x))).mean((2, 3)))


class TransitiveSums(Toy):
    """a + b, c + d, b + c: one decision about four layers."""

    GROUPS = {'a': (8, {'a', 'b', 'c', 'd'}, {'e'}), 'e': (5, {'e'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight', 'c.weight', 'd.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (conv(3, 8) for _ in range(4))
        self.e, self.head = conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        a, b, c, d = self.a(x), self.b(x), self.c(x), self.d(x)
        y = (a + b) * (c + d) + (b + c)
        return self.head(self.e(y).mean((2, 3)))


class GroupedConv(Toy):
    """Each block of a grouped convolution keeps equally many, not the same, channels."""

    GROUPS = {'a': (12, {'a'}, {'b'}), 'b': (8, {'b', 'norm'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 12), conv(12, 8, groups=4), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.b(F.relu(self.a(x)))).mean((2, 3)))


class Depthwise(Toy):
    """A depthwise convolution has its input's channels."""

    GROUPS = {'a': (8, {'a', 'b', 'norm'}, {'b', 'c'}), 'c': (6, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 8), conv(8, 8, groups=8), nn.BatchNorm2d(8)
        self.c, self.head = conv(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.c(self.norm(self.b(self.a(x)))).mean((2, 3)))


class DepthwiseMultiplier(Toy):
    """Every input channel makes three outputs, which go with it."""

    GROUPS = {'a': (8, {'a', 'b', 'norm'}, {'b', 'c'}), 'c': (6, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 8), conv(8, 24, groups=8), nn.BatchNorm2d(24)
        self.c, self.head = conv(24, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.c(self.norm(self.b(self.a(x)))).mean((2, 3)))


class OneChannelConv(Toy):
    """A convolution from one channel to one is no depthwise one of the channels around it."""

    GROUPS = {'a': (8, {'a'}, {'gate', 'c'}), 'c': (6, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.gate, self.spread = conv(3, 8), conv(8, 1), conv(1, 1)
        self.c, self.head = conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        x = x * torch.sigmoid(self.spread(self.gate(x)))
        return self.head(self.c(x).mean((2, 3)))


class Chunk(Toy):
    """Both chunks keep equally many channels, each its own."""

    GROUPS = {
        'a': (12, {'a'}, {'b', 'c'}),
        'b': (5, {'b', 'c'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(6, 5), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        first, second = self.a(x).chunk(2, dim=1)
        return self.head((self.b(first) + self.c(second)).mean((2, 3)))


class PixelShuffle(Toy):
    """The four channels of one output of a pixel shuffle go together."""

    GROUPS = {'a': (5, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 20), conv(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.pixel_shuffle(self.a(x), 2)).mean((2, 3)))


class FlattenBeforeLinear(Toy):
    """A channel is 16 inputs of the linear layer behind a flatten."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'fc'}), 'fc': (10, {'fc'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6, stride=2), nn.Linear(6 * 16, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(F.relu(self.fc(self.b(self.a(x)).flatten(1))))


class NestedConcat(Toy):
    """Concatenations of concatenations."""

    GROUPS = {
        'a': (6, {'a'}, {'b', 'c', 'd'}),
        'b': (4, {'b'}, {'c', 'd'}),
        'c': (4, {'c'}, {'d'}),
        'd': (5, {'d'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 6), conv(6, 4), conv(10, 4), conv(14, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.a(x)
        for layer in (self.b, self.c):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.head(self.d(x).mean((2, 3)))


class ConcatPlusResidual(Toy):
    """A sum of a concatenation and a plain convolution ties ranges of channels."""

    GROUPS = {
        'a': (4, {'a', 'c'}, {'d'}),
        'b': (6, {'b', 'c'}, {'d'}),
        'd': (5, {'d'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight', 'c.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 4), conv(3, 6), conv(3, 10), conv(10, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.d(torch.cat([self.a(x), self.b(x)], 1) + self.c(x)).mean((2, 3)))


class ConcatWithInput(Toy):
    """The network's input cannot be pruned; what it is concatenated with can."""

    GROUPS = {'a': (6, {'a'}, {'b'}), 'b': (5, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 6), conv(9, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.b(torch.cat([x, self.a(x)], 1)).mean((2, 3)))


class BareNorms(Toy):
    """Norms without weights, and norms without running statistics."""

    GROUPS = {
        'a': (8, {'a', 'plain'}, {'b'}),
        'b': (6, {'b', 'batch'}, {'c'}),
        'c': (6, {'c', 'both'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 6)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.batch = nn.BatchNorm2d(6, track_running_stats=False)
        self.both = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.batch(self.b(F.relu(self.plain(self.a(x)))))
        return self.head(F.relu(self.both(self.c(F.relu(x)))).mean((2, 3)))


class TwoInputs(Toy):
    """Several inputs, none of them a 3x224x224 image, given as keywords."""

    INPUT = None
    GROUPS = {'a': (6, {'a', 'b'}, {'c'}), 'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(1, 6), conv(4, 6), conv(6, 5), nn.Linear(5, 4)

    @staticmethod
    def data():
        return {
            'grey': torch.randn(2, 1, 8, 8, dtype=torch.float64),
            'depth': torch.randn(2, 4, 8, 8, dtype=torch.float64),
        }

    def forward(self, grey, *, depth):
        return {'scores': [self.head(self.c(self.a(grey) + self.b(depth)).mean((2, 3)))]}


class BareParameters(Toy):
    """Layer scale and a learned offset, as bare parameters; a norm over the last dim."""

    GROUPS = {
        'a': (8, {'a', 'b', 'norm', 'back'}, {'b', 'fc', 'head'}),
        'fc': (10, {'fc'}, {'back'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 8, 5, groups=8)
        self.norm, self.fc, self.back = nn.LayerNorm(8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.gamma = nn.Parameter(torch.rand(8) + 0.5)
        self.offset = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x) + self.offset
        y = self.norm(self.b(x).permute(0, 2, 3, 1))
        y = self.gamma * self.back(F.gelu(self.fc(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class GroupNormNet(Toy):
    """Group normalisation keeps equally many channels in each of its groups."""

    GROUPS = {'a': (12, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 12), nn.GroupNorm(3, 12), conv(12, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.a(x)))).mean((2, 3)))


class SharedHead(Toy):
    """A layer called on two feature maps prunes both alike."""

    GROUPS = {
        'a': (6, {'a', 'b'}, {'b', 'shared'}),
        'shared': (5, {'shared'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.shared, self.head = conv(3, 6), conv(6, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        first = self.a(x)
        second = self.b(first)
        return [self.head(self.shared(y).mean((2, 3))) for y in (first, second)]


class PaddedShortcut(Toy):
    """Zeros around the channels of a shortcut pin the channels that they are added to."""

    GROUPS = {'a': (4, {'a', 'b'}, {'b', 'c'}), 'c': (6, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 4), conv(4, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        x = F.pad(x, (0, 0, 0, 0, 2, 2)) + self.b(x)
        return self.head(self.c(x).mean((2, 3)))


class Transposed(Toy):
    """Transposed convolutions, plain, grouped and depthwise."""

    GROUPS = {
        'a': (8, {'a'}, {'up'}),
        'up': (12, {'up'}, {'grouped'}),
        'grouped': (8, {'grouped', 'deep'}, {'deep', 'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.up = conv(3, 8), nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=4)
        self.deep = nn.ConvTranspose2d(8, 8, 2, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.deep(F.relu(self.grouped(self.up(self.a(x))))).mean((2, 3)))


class UnknownOperation(Toy):
    """An operation that nobody taught mmprune pins what reaches it, and nothing else."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b', 'c.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.b(F.relu(self.a(x)))
        x = torch.cumprod(x, dim=1)
        return self.head(self.c(x).mean((2, 3)))


class SqueezeExcitation(Toy):
    """Squeeze and excitation: the gate has the channels of what it gates."""

    GROUPS = {
        'a': (8, {'a', 'up'}, {'down', 'b'}),
        'down': (3, {'down'}, {'up'}),
        'b': (6, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.down, self.up = conv(3, 8), conv(8, 3, 1), conv(3, 8, 1)
        self.b, self.head = conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.b(x * gate).mean((2, 3)))


class TiedWeights(Toy):
    """One weight in two layers stays one weight."""

    GROUPS = {'a': (6, {'a', 'b', 'c'}, {'b', 'c', 'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 6), conv(6, 6), conv(6, 6), nn.Linear(6, 4)
        self.c.weight = self.b.weight

    def forward(self, x):
        x = self.a(x)
        x = x + self.b(x)
        return self.head((x + self.c(F.relu(x))).mean((2, 3)))


class TiedDepthwise(Toy):
    """A depthwise weight in two layers: both lose the groups of the channels that go."""

    GROUPS = {'a': (8, {'a', 'b', 'c'}, {'b', 'c', 'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8, groups=8), conv(8, 8, groups=8)
        self.c.weight = self.b.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.c(F.relu(self.b(self.a(x)))).mean((2, 3)))


class FrozenLayer(Toy):
    """A frozen layer is pruned like any other, and stays frozen."""

    GROUPS = Chain.GROUPS

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.head = (
            conv(3, 8),
            nn.BatchNorm2d(8),
            conv(8, 6),
            nn.Linear(6, 4),
        )
        self.a.requires_grad_(False)
        self.norm.requires_grad_(False)

    def forward(self, x):
        x = self.b(F.relu(self.norm(self.a(x))))
        return self.head(x.mean((2, 3)))


class Reassembled(Toy):
    """Group convolution on a concatenation couples its parts into one decision."""

    GROUPS = {'a': (8, {'a', 'b'}, {'c'}), 'c': (6, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(3, 4), conv(8, 6, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(F.relu(self.c(F.relu(x))).mean((2, 3)))


TOYS = toys_of(globals())
