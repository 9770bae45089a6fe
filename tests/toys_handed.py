"""Toy networks whose modules know or use what belongs to others, and their expected groups."""

import torch
from torch import nn
from toy_networks import Toy, conv


class Positions(nn.Module):
    """Never called: its owner calls a method of it."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.net = 3, nn.Linear(2, 3)

    def bias(self, size):
        places = torch.arange(2.0 * size * size).view(-1, 2).to(self.net.weight)
        return self.net(places.sin()).view(-1, self.num_heads).view(1, size, size, -1)


class AttentionWithPositions(nn.Module):
    """As timm writes it: the number of heads is kept by a module whose method runs."""

    def __init__(self):
        super().__init__()
        self.heads, self.positions = 3, Positions()
        self.qkv, self.out = nn.Linear(9, 36), nn.Linear(12, 9)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-1, -2) + self.positions.bias(x.shape[1]).permute(0, 3, 1, 2)
        return self.out((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))


class MethodOfAModule(Toy):
    """Sizes that a module keeps which is not called itself."""

    INPUT = (2, 5, 6)
    GROUPS = {
        'a': (9, {'a', 'attention.out'}, {'attention.qkv', 'head'}),
        'attention.qkv': (3, {'attention.qkv', 'attention.positions.net'}, {'attention.out'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'attention.positions.net.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.attention = nn.Linear(6, 9), AttentionWithPositions()
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.attention(x))


class TakesKeywords(nn.Module):
    """Projects what it is given by name."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 7)

    def forward(self, x, *, places):
        return self.project(x) + self.project(places)


class HandedAsKeyword(Toy):
    """A parameter that another module is given by name, and hands on (DeBERTa)."""

    INPUT = (2, 5, 6)
    GROUPS = {'a': (8, {'a'}, {'b.project'}), 'b.project': (7, {'b.project'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'places.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.places, self.b = nn.Linear(6, 8), nn.Embedding(5, 8), TakesKeywords()
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        return self.head(self.b(self.a(x), places=self.places.weight))


class HandsOn(nn.Module):
    """Hands a parameter of its own on, by a method that is not its forward."""

    def __init__(self):
        super().__init__()
        self.places, self.inner = nn.Parameter(torch.randn(5, 8)), TakesKeywords()

    def projected(self, x):
        return self.inner(x, places=self.places)


class HandedByMethod(HandedAsKeyword):
    """The parameter's owner is not called, nor is what is around it."""

    GROUPS = {
        'a': (8, {'a'}, {'hand.inner.project'}),
        'hand.inner.project': (7, {'hand.inner.project'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'hand.places'})

    def __init__(self):
        super().__init__()
        del self.places, self.b
        self.hand = HandsOn()

    def forward(self, x):
        return self.head(self.hand.projected(self.a(x)))


class SeveralConstants(Toy):
    """Coordinates are joined to the channels, as CoordConv does."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(5, 8), conv(10, 6), nn.Linear(6, 4)

    def with_places(self, x):
        steps = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        rows, columns = torch.meshgrid(steps, steps, indexing='ij')
        return torch.cat([rows.expand(2, 1, 8, 8), x, columns.expand(2, 1, 8, 8)], 1)

    def forward(self, x):
        x = self.b(self.with_places(self.a(self.with_places(x))))
        return self.head(x.relu().mean((2, 3)))


class CalledWithOthers(Toy):
    """A part is called with other weights in the place of its own, computed from them (MAML)."""

    GROUPS = {'body.0': (8, {'body.0', 'body.1'}, {'body.2'}), 'body.2': (6, {'body.2'}, {'head'})}
    PINNED = frozenset({'head', 'body.0.weight'})

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        others = {name: own * 0.9 for name, own in self.body.named_parameters()}
        x = torch.func.functional_call(self.body, others, (x,))
        return self.head(x.mean((2, 3)))


class PlacesInBuffers(Toy):
    """Features from which a mean is taken, over a deviation; and their distances from centers."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'centers'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.register_buffer('mean', torch.randn(1, 8, 1, 1))
        self.register_buffer('deviation', torch.rand(8) + 0.5)
        self.register_buffer('centers', torch.randn(5, 6))

    def forward(self, x):
        x = (self.a(x) - self.mean) / self.deviation.view(1, -1, 1, 1)
        x = self.b(x.relu()).mean((2, 3))
        return self.head(x), torch.cdist(x, self.centers)


TOYS = [
    MethodOfAModule,
    HandedAsKeyword,
    HandedByMethod,
    SeveralConstants,
    CalledWithOthers,
    PlacesInBuffers,
]
