"""Toy networks whose channels are dealt anew at every width, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv, toys_of


def shuffled(x, groups):
    """Channel shuffle of Zhang et al., ShuffleNet, 2017, figure 1."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleBranch(nn.Module):
    """Pointwise, depthwise, pointwise."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.a, self.norm = conv(inputs, 6, 1), nn.BatchNorm2d(6)
        self.deep, self.b = conv(6, 6, groups=6), conv(6, outputs, 1)
        self.last = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.last(self.b(self.deep(F.relu(self.norm(self.a(x)))))))


class StageOfShuffleNetV2(Toy):
    """Half of the channels pass a unit by; which half a channel is in, the shuffles decide."""

    GROUPS = {
        'left': (
            36,
            {'left', 'one.b', 'two.b', 'three.b', 'one.last', 'two.last', 'three.last', 'deep'},
            {'two.a', 'three.a', 'deep', 'c'},
        ),
        'one.a': (6, {'one.a', 'one.norm', 'one.deep'}, {'one.deep', 'one.b'}),
        'two.a': (6, {'two.a', 'two.norm', 'two.deep'}, {'two.deep', 'two.b'}),
        'three.a': (6, {'three.a', 'three.norm', 'three.deep'}, {'three.deep', 'three.b'}),
        'c': (8, {'c'}, {'head'}),
    }
    PINNED = frozenset({'head', 'left.weight', 'one.a.weight'})

    def __init__(self):
        super().__init__()
        self.left, self.one = conv(3, 9), ShuffleBranch(3, 9)
        self.two, self.three = ShuffleBranch(9, 9), ShuffleBranch(9, 9)
        self.deep, self.c, self.head = conv(18, 18, groups=18), conv(18, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = shuffled(torch.cat([self.left(x), self.one(x)], 1), 2)
        passed, read = x.chunk(2, 1)
        x = shuffled(torch.cat([passed, self.two(read)], 1), 2)
        half = x.shape[1] // 2
        x = shuffled(torch.cat([x[:, :half], self.three(x[:, half:])], 1), 2)
        return self.head(F.relu(self.c(self.deep(x))).mean((2, 3)))


class UnitOfShuffleNetV1(Toy):
    """A channel is made in a group, and read in another one; the sum outside stays in order."""

    GROUPS = {
        'a': (18, {'a', 'expand', 'norm'}, {'compress', 'b'}),
        'compress': (24, {'compress', 'inner', 'deep'}, {'deep', 'expand'}),
        'b': (6, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.compress = conv(3, 18), conv(18, 24, 1, groups=3)
        self.inner, self.deep = nn.BatchNorm2d(24), conv(24, 24, groups=24)
        self.expand, self.norm = conv(24, 18, 1, groups=3), nn.BatchNorm2d(18)
        self.b, self.head = conv(18, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        inside = self.deep(F.relu(self.inner(self.compress(x))))
        x = F.relu(x + self.norm(self.expand(shuffled(inside, 3))))
        return self.head(self.b(x).mean((2, 3)))


class ShuffleOfFourGroups(Toy):
    """Tokens, whose channels are shuffled last and scaled one by one, a norm, and a reader in
    groups; the module says by an attribute how many channels there are.
    """

    INPUT = (2, 5, 6)
    GROUPS = {
        'a': (24, {'a', 'norm'}, {'b'}),
        'b': (8, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.head = nn.Linear(6, 24), nn.LayerNorm(24), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(24))
        self.b, self.width = nn.Conv1d(24, 8, 1, groups=4), 24

    def forward(self, x):
        x = self.a(x).unflatten(2, (4, -1)).permute(0, 1, 3, 2)
        x = self.norm(self.scale * x.reshape(len(x), -1, self.width))
        return self.head(self.b(F.gelu(x).transpose(1, 2)).mean(2))


class UnevenChunkOfShuffled(Toy):
    """The last of three chunks is what is left."""

    GROUPS = {
        'a': (32, {'a', 'b'}, {'c', 'd', 'e'}),
        'c': (6, {'c', 'd', 'e'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(3, 16)
        self.c, self.d, self.e = conv(11, 6), conv(11, 6), conv(10, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = shuffled(F.relu(torch.cat([self.a(x), self.b(x)], 1)), 2)
        first, second, third = x.chunk(3, 1)
        x = self.c(first) + self.d(second) + self.e(third)
        return self.head(F.relu(x).mean((2, 3)))


class NormOfShuffled(Toy):
    """A norm by groups, of channels that a native shuffle brings there from all groups."""

    GROUPS = {
        'a': (24, {'a', 'norm'}, {'b'}),
        'b': (6, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.shuffle, self.norm = conv(3, 24), nn.ChannelShuffle(2), nn.GroupNorm(3, 24)
        self.b, self.head = conv(24, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.shuffle(self.a(x))))).mean((2, 3)))


class SumOfShuffled(Toy):
    """What is added to itself in another order stays in the order of the full network."""

    GROUPS = {'b': (6, {'b'}, {'head'})}
    REASONS = {'b.weight': 'all of its channels depend on each other'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.b(F.relu(x + shuffled(x, 2))).mean((2, 3)))


class ShuffledBesideOthers(Toy):
    """A decoder joins shuffled channels of an encoder with its own, normalises and reads both."""

    GROUPS = {
        'a': (16, {'a', 'b', 'norm'}, {'c', 'e'}),
        'c': (6, {'c', 'norm'}, {'e'}),
        'e': (8, {'e'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(3, 8), conv(16, 6)
        self.norm, self.e, self.head = nn.BatchNorm2d(22), conv(22, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = shuffled(F.relu(torch.cat([self.a(x), self.b(x)], 1)), 2)
        x = F.relu(self.norm(torch.cat([x, self.c(x)], 1)))
        return self.head(F.relu(self.e(x)).mean((2, 3)))


class StreamsThatWeighEachOther(Toy):
    """LiteHRNet (Yu et al., 2021, section 3.2): one layer weighs the shuffled channels of all.

    Each stream is added to in place, through the view that a shuffle ends on.
    """

    GROUPS = {
        'a': (16, {'a', 'b', 'more', 'weigh'}, {'squeeze', 'left'}),
        'c': (24, {'c', 'd', 'weigh'}, {'squeeze', 'right'}),
        'squeeze': (6, {'squeeze'}, {'weigh'}),
        'left': (6, {'left', 'right'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight', 'c.weight', 'd.weight', 'more.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.more = conv(3, 8), conv(3, 8), conv(3, 16)
        self.c, self.d, self.widths = conv(3, 12), conv(3, 12), [16, 24]
        self.squeeze, self.weigh = conv(40, 6, 1), conv(6, 40, 1)
        self.left, self.right, self.head = conv(16, 6), conv(24, 6), nn.Linear(6, 4)

    @staticmethod
    def shuffled(x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    def forward(self, x):
        a = self.shuffled(F.relu(torch.cat([self.a(x), self.b(x)], 1)))
        c = self.shuffled(F.relu(torch.cat([self.c(x), self.d(x)], 1)))
        a += self.more(x)
        pooled = torch.cat([a, c], 1).mean((2, 3), keepdim=True)
        weights = self.weigh(F.relu(self.squeeze(pooled))).sigmoid()
        first, second = torch.split(weights, self.widths, 1)
        x = self.left(a * F.interpolate(first, a.shape[2:])) + self.right(c * second)
        return self.head(F.relu(x).mean((2, 3)))


TOYS = toys_of(globals())
