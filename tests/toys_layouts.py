"""Toy networks whose layers lay heads out in other orders, and their expected groups."""

import dataclasses
import typing

import torch
from torch import nn
from toy_networks import Toy
from toys_heads import STREAM, Blocks


class HeadsLast(Blocks):
    """Channels are laid out as (width, heads)."""

    def split(self, x):
        return x.view(*x.shape[:2], -1, self.heads).transpose(2, 3)

    def join(self, x):
        return x.permute(0, 2, 3, 1).flatten(2)


class HeadsLastWithBias(HeadsLast):
    """The same with a parameter (width, heads)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (8, {'k', 'q', 'v'}, {'o'}),
    }
    REASONS = {
        'u': 'meets a tensor that needs all',
    }

    def make(self):
        self.u = nn.Parameter(torch.randn(8, 4))

    def split(self, x):
        return (x.view(*x.shape[:2], -1, self.heads) + self.u).transpose(2, 3)


class OneLayer(Blocks):
    """One layer for q, k and v, laid out as (3, heads, width)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'qkv'}),
        'qkv': (4, {'qkv'}, {'o'}),
    }

    def make(self):
        self.qkv = nn.Linear(32, 96)
        del self.q, self.k, self.v

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class ThreeInEachHead(OneLayer):
    """Laid out as (heads, 3, width)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'qkv'}),
        'qkv': (4, {'qkv'}, {'o'}),
    }

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], self.heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)


class ChunkedInEachHead(OneLayer):
    """Laid out as (heads, 3 * width)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'qkv'}),
        'qkv': (4, {'qkv'}, {'o'}),
    }

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], self.heads, -1).transpose(1, 2).chunk(3, -1)


class WidthFirstOneLayer(OneLayer):
    """Laid out as (width, 3, heads)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'qkv'}),
        'qkv': (4, {'qkv'}, {'o'}),
    }

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], -1, 3, self.heads).permute(3, 0, 4, 1, 2).unbind(0)

    def join(self, x):
        return x.permute(0, 2, 3, 1).flatten(2)


class StackOfHeads(Blocks):
    """Heads are layers of their own whose results are stacked."""

    GROUPS = {
        'a': (
            32,
            STREAM,
            {
                'head',
                'k.0',
                'k.1',
                'k.2',
                'k.3',
                'q.0',
                'q.1',
                'q.2',
                'q.3',
                'v.0',
                'v.1',
                'v.2',
                'v.3',
            },
        ),
        'q.0': (8, {'k.0', 'k.1', 'k.2', 'k.3', 'q.0', 'q.1', 'q.2', 'q.3'}, set()),
        'v.0': (8, {'v.0', 'v.1', 'v.2', 'v.3'}, {'o'}),
    }

    def make(self):
        self.q, self.k, self.v = (
            nn.ModuleList(nn.Linear(32, 8) for _ in range(4)) for _ in range(3)
        )

    def parts(self, x):
        kinds = (self.q, self.k, self.v)
        return [torch.stack([layer(x) for layer in layers], 1) for layers in kinds]


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes that two networks of attention share."""

    dim: int = 32
    heads: int = 4
    split: tuple[int, ...] = (32, 32, 32)


class _Configured(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv, self.o = nn.Linear(32, 96), nn.Linear(32, 32)

    def numbers(self):
        return self.config.dim, self.config.heads, self.config.split

    def forward(self, x):
        dim, heads, split = self.numbers()
        batch, places, _ = x.shape
        q, k, v = (
            part.reshape(batch, places, heads, dim // heads).transpose(1, 2)
            for part in self.qkv(x).split(split, -1)
        )
        mixed = (q @ k.transpose(-1, -2) * (dim // heads) ** -0.5).softmax(-1) @ v
        return x + self.o(self.join(mixed.transpose(1, 2)))

    def join(self, x):
        return x.reshape(*x.shape[:2], self.config.dim)


class _ConfiguredByDict(_Configured):
    """The width of all heads is only ever computed with."""

    def numbers(self):
        config = self.config['attention']
        return config['dim'], config['heads'], config['split']

    def join(self, x):
        return x.flatten(2)


class SharedConfig(Toy):
    """Layers read their sizes from one config, and lose different numbers of heads."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (32, {'a', 'first.o', 'second.o'}, {'first.qkv', 'second.qkv', 'head'}),
        'first.qkv': (4, {'first.qkv'}, {'first.o'}),
        'second.qkv': (4, {'second.qkv'}, {'second.o'}),
    }
    PINNED = frozenset({'head', 'a.weight'})
    LAYER, CONFIG = _Configured, Options()

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 32), nn.Linear(32, 4)
        self.first, self.second = self.LAYER(self.CONFIG), self.LAYER(self.CONFIG)

    def forward(self, x):
        return self.head(self.second(self.first(self.a(x))))


class Sizes(typing.NamedTuple):
    dim: int = 32
    heads: int = 4


class _ConfiguredByTuple(_Configured):
    """The config is a tuple with names, of which no part can be set."""

    def numbers(self):
        return self.config.dim, self.config.heads, self.config.dim


class SharedTuple(SharedConfig):
    """The same of a named tuple."""

    LAYER, CONFIG = _ConfiguredByTuple, Sizes()


class SharedDict(SharedConfig):
    """The same of a dict in a dict."""

    LAYER, CONFIG = _ConfiguredByDict, {'attention': dataclasses.asdict(Options())}


class HeadsInTheBatch(Blocks):
    """Each head is a sample of its own, and has its queries, keys and values in a row."""

    GROUPS = {'a': (32, STREAM, {'qkv', 'head'}), 'qkv': (4, {'qkv'}, {'o'})}

    def make(self):
        del self.q, self.k, self.v
        self.qkv = nn.Linear(32, 96)

    def mix(self, x):
        qkv = self.qkv(x).transpose(1, 2)
        width = qkv.shape[1] // (3 * self.heads)
        q, k, v = qkv.reshape(len(x) * self.heads, width * 3, -1).split(width, 1)
        weights = (torch.einsum('bct,bcs->bts', q, k) * self.scale).softmax(-1)
        y = torch.einsum('bts,bcs->bct', weights, v)
        return self.o(y.reshape(len(x), -1, x.shape[1]).transpose(1, 2))


class HeadsBelowEachOther(Blocks):
    """Cut into heads that are joined along the batch, as many as a head has channels."""

    GROUPS = {
        'a': (32, STREAM, {'q', 'k', 'v', 'head'}),
        'q': (8, {'q', 'k', 'v'}, {'o'}),  # four of queries and keys, and four of values
    }
    WIDTH = 16

    def make(self):
        self.width = self.WIDTH

    def mix(self, x):
        each = self.width // self.heads
        q, k, v = (torch.cat(layer(x).split(each, 2)) for layer in (self.q, self.k, self.v))
        y = (q.bmm(k.mT) / each**0.5).softmax(-1).bmm(v)
        return self.o(torch.cat(y.split(len(x)), 2))


TOYS = [
    HeadsLast,
    HeadsLastWithBias,
    OneLayer,
    ThreeInEachHead,
    ChunkedInEachHead,
    WidthFirstOneLayer,
    StackOfHeads,
    HeadsInTheBatch,
    HeadsBelowEachOther,
    SharedConfig,
    SharedTuple,
    SharedDict,
]
