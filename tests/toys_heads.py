"""Toy networks whose channels are viewed as blocks (heads), and their expected groups.

Their middle ``mix`` reads and writes a stream of 32 channels in 4 blocks of 8.
"""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy

STREAM = {'a', 'o'}


class Blocks(Toy):
    """Attention over places as most write it: heads are one decision each."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (32, STREAM, {'q', 'k', 'v', 'head'}),
        'q': (4, {'q', 'k', 'v'}, {'o'}),
    }
    PINNED = frozenset({'head', 'a.weight'})
    WIDTH, HEADS = 32, 4

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.head = self.HEADS, nn.Linear(6, 32), nn.Linear(32, 4)
        self.q, self.k, self.v = (nn.Linear(32, self.WIDTH) for _ in range(3))
        self.o = nn.Linear(self.WIDTH, 32)
        self.scale = (self.WIDTH // self.HEADS) ** -0.5
        self.make()

    def make(self):
        """The parameters of the toy at hand."""

    def split(self, x):
        """(batch, places, heads, width)"""
        return x.view(*x.shape[:2], self.heads, -1)

    def attend(self, q, k, v):
        """Of (batch, heads, places, width)"""
        return (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v

    def parts(self, x):
        return [self.split(layer(x)).transpose(1, 2) for layer in (self.q, self.k, self.v)]

    def join(self, x):
        return x.transpose(1, 2).flatten(2)

    def mix(self, x):
        return self.o(self.join(self.attend(*self.parts(x))))

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.mix(x))


class RelativeBiases(Blocks):
    """Transformer-XL, Conformer: queries plus u, and plus v, of shape (heads, width)."""

    def make(self):
        self.u, self.w = (nn.Parameter(torch.randn(4, 8)) for _ in range(2))
        self.p = nn.Linear(5, 32, bias=False)
        self.register_buffer('places', torch.randn(7, 5), persistent=False)

    def mix(self, x):
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        p = self.p(self.places).view(7, self.heads, -1).permute(1, 2, 0)
        content = (q + self.u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        position = (q + self.w).transpose(1, 2) @ p
        weights = ((content + position) * self.scale).softmax(-1)
        return self.o(self.join(weights @ v.transpose(1, 2)))


class GraphAttention(Blocks):
    """Features of every head times a parameter (1, heads, width), summed within the head."""

    INPUT = (9, 6)

    def make(self):
        del self.q, self.k
        self.left, self.right = (nn.Parameter(torch.randn(1, 4, 8)) for _ in range(2))

    def mix(self, x):
        x = self.v(x).view(len(x), self.heads, -1)
        scores = (x * self.left).sum(-1)[:, None] + (x * self.right).sum(-1)[None]
        weights = F.leaky_relu(scores, 0.2).softmax(1)
        return self.o(torch.einsum('ijh,jhd->ihd', weights, x).flatten(1))


class GatedByHeads(Blocks):
    """A parameter (1, heads, width) and no product of heads at all."""

    INPUT = (9, 6)

    def make(self):
        del self.q, self.k
        self.att = nn.Parameter(torch.randn(1, 4, 8))

    def mix(self, x):
        x = self.v(x).view(len(x), self.heads, -1)
        return self.o((x * (x * self.att).sum(-1, keepdim=True).sigmoid()).flatten(1))


class ScalePerHead(Blocks):
    """Each head's result times a parameter (heads, 1, 1), its scores by a temperature."""

    def make(self):
        self.temperature, self.gamma = (nn.Parameter(torch.rand(4, 1, 1)) for _ in range(2))

    def attend(self, q, k, v):
        return (q @ k.transpose(-1, -2) * self.temperature).softmax(-1) @ v * self.gamma


class ScalePerHeadAndDim(Blocks):
    """Each head's result times a parameter (heads, 1, width)."""

    def make(self):
        self.gamma = nn.Parameter(torch.randn(4, 1, 8))

    def attend(self, q, k, v):
        return super().attend(q, k, v) * self.gamma


class NormsOfQueries(Blocks):
    """Queries and keys normalised by torch's own norms over the width of a head."""

    def make(self):
        self.nq, self.nk = nn.LayerNorm(8), nn.RMSNorm(8)

    def attend(self, q, k, v):
        return super().attend(self.nq(q), self.nk(k), v)


class NormsByHand(Blocks):
    """The same by hand, with weights (width,) and (heads, 1, width)."""

    def make(self):
        self.wq, self.wk = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(4, 1, 8))

    def attend(self, q, k, v):
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-6) * self.wq
        return super().attend(q, F.normalize(k, dim=-1) * self.wk, v)


class BiasTables(Blocks):
    """T5, Swin: a table (distances, heads) is looked up and added to the scores."""

    def make(self):
        self.table = nn.Parameter(torch.randn(13, 4))
        self.bias = nn.Embedding(13, 4)
        places = torch.arange(7)
        self.register_buffer('index', places[:, None] - places + 6)

    def attend(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * self.scale
        scores = scores + self.table[self.index.view(-1)].view(7, 7, -1).permute(2, 0, 1)
        return (scores + self.bias(self.index).permute(2, 0, 1)[None]).softmax(-1) @ v


class Slopes(Blocks):
    """ALiBi: a constant (heads, 1, 1) in a buffer times distances."""

    def make(self):
        self.register_buffer('slopes', 0.5 ** torch.arange(4.0).view(4, 1, 1))
        self.register_buffer('distances', -torch.arange(7.0)[None])

    def attend(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * self.scale
        return (scores + self.slopes * self.distances).softmax(-1) @ v


class TalkingHeads(Blocks):
    """Linear layers over the heads, before and after the softmax: heads stay, dims go."""

    def make(self):
        self.before, self.after = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

    def attend(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * self.scale
        weights = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.after(weights) @ v


class HeadsLast(Blocks):
    """Channels are laid out as (width, heads)."""

    def split(self, x):
        return x.view(*x.shape[:2], -1, self.heads).transpose(2, 3)

    def join(self, x):
        return x.permute(0, 2, 3, 1).flatten(2)


class HeadsLastWithBias(HeadsLast):
    """The same with a parameter (width, heads)."""

    def make(self):
        self.u = nn.Parameter(torch.randn(8, 4))

    def split(self, x):
        return (x.view(*x.shape[:2], -1, self.heads) + self.u).transpose(2, 3)


class OneLayer(Blocks):
    """One layer for q, k and v, laid out as (3, heads, width)."""

    GROUPS = {
        'a': (32, STREAM, {'qkv', 'head'}),
        'qkv': (12, {'qkv'}, {'o'}),
    }

    def make(self):
        self.qkv = nn.Linear(32, 96)
        del self.q, self.k, self.v

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class ThreeInEachHead(OneLayer):
    """Laid out as (heads, 3, width)."""

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], self.heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)


class ChunkedInEachHead(OneLayer):
    """Laid out as (heads, 3 * width)."""

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], self.heads, -1).transpose(1, 2).chunk(3, -1)


class WidthFirstOneLayer(OneLayer):
    """Laid out as (width, 3, heads)."""

    def parts(self, x):
        qkv = self.qkv(x)
        return qkv.reshape(*qkv.shape[:2], -1, 3, self.heads).permute(3, 0, 4, 1, 2).unbind(0)

    def join(self, x):
        return x.permute(0, 2, 3, 1).flatten(2)


class AverageOfHeads(Blocks):
    """Heads are averaged, as in the last layer of a graph attention network."""

    def make(self):
        self.o = nn.Linear(8, 32)

    def mix(self, x):
        return self.o(self.attend(*self.parts(x)).mean(1))


class OneKeyHead(Blocks):
    """Multi-query attention: one head of keys and values for all heads of queries."""

    def make(self):
        self.k, self.v = nn.Linear(32, 8), nn.Linear(32, 8)

    def parts(self, x):
        q = self.split(self.q(x)).transpose(1, 2)
        return q, self.k(x)[:, None], self.v(x)[:, None]


class GroupedQueries(Blocks):
    """Grouped-query attention: 2 heads of keys and values for 4 of queries."""

    def make(self):
        self.k, self.v, self.kv_heads = nn.Linear(32, 16), nn.Linear(32, 16), 2

    def parts(self, x):
        q = self.split(self.q(x)).transpose(1, 2)
        shape = (*x.shape[:2], self.kv_heads, -1)
        k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.k, self.v))
        times = self.heads // self.kv_heads
        return q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


TOYS = [
    RelativeBiases,
    GraphAttention,
    GatedByHeads,
    ScalePerHead,
    ScalePerHeadAndDim,
    NormsOfQueries,
    NormsByHand,
    BiasTables,
    Slopes,
    TalkingHeads,
    HeadsLast,
    HeadsLastWithBias,
    OneLayer,
    ThreeInEachHead,
    ChunkedInEachHead,
    WidthFirstOneLayer,
    AverageOfHeads,
    OneKeyHead,
    GroupedQueries,
]
