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

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (4, {'k', 'p', 'q', 'v'}, {'o'}),
        'p.weight': (5, set(), {'p'}),
    }
    REASONS = {
        'places': 'meets a tensor that needs all',
        'w': 'meets a tensor that needs all',
        'u': 'meets a tensor that needs all',
    }

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
    GROUPS = {
        'a': (32, STREAM, {'head', 'v'}),
        'v': (4, {'v'}, {'o'}),
    }
    REASONS = {
        'right': 'meets a tensor that needs all',
        'left': 'meets a tensor that needs all',
    }

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
    GROUPS = {
        'a': (32, STREAM, {'head', 'v'}),
        'v': (4, {'v'}, {'o'}),
    }
    REASONS = {
        'att': 'meets a tensor that needs all',
    }

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

    REASONS = {
        'gamma': 'meets a tensor that needs all',
    }

    def make(self):
        self.gamma = nn.Parameter(torch.randn(4, 1, 8))

    def attend(self, q, k, v):
        return super().attend(q, k, v) * self.gamma


class NormsOfQueries(Blocks):
    """Queries and keys normalised by torch's own norms over the width of a head."""

    REASONS = {
        'nk.weight': 'meets a tensor that needs all',
        'nq.bias': 'meets a tensor that needs all',
    }

    def make(self):
        self.nq, self.nk = nn.LayerNorm(8), nn.RMSNorm(8)

    def attend(self, q, k, v):
        return super().attend(self.nq(q), self.nk(k), v)


class NormsByHand(Blocks):
    """The same by hand, with weights (width,) and (heads, 1, width)."""

    REASONS = {
        'wk': 'meets a tensor that needs all',
        'wq': 'meets a tensor that needs all',
    }

    def make(self):
        self.wq, self.wk = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(4, 1, 8))

    def attend(self, q, k, v):
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-6) * self.wq
        return super().attend(q, F.normalize(k, dim=-1) * self.wk, v)


class BiasTables(Blocks):
    """T5, Swin: a table (distances, heads) is looked up and added to the scores."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (4, {'bias', 'k', 'q', 'v'}, {'o'}),
    }
    REASONS = {
        'bias.weight': 'looked up by number',
        'table': 'picks channels by number',
    }

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

    REASONS = {
        'distances': 'meets a tensor that needs all',
    }

    def make(self):
        self.register_buffer('slopes', 0.5 ** torch.arange(4.0).view(4, 1, 1))
        self.register_buffer('distances', -torch.arange(7.0)[None])

    def attend(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * self.scale
        return (scores + self.slopes * self.distances).softmax(-1) @ v


class AverageOfHeads(Blocks):
    """Heads are averaged, as in the last layer of a graph attention network."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (4, {'k', 'q', 'v'}, set()),
    }
    REASONS = {
        'o.weight': 'the other factor',
    }

    def make(self):
        self.o = nn.Linear(8, 32)

    def mix(self, x):
        return self.o(self.attend(*self.parts(x)).mean(1))


class WeightsPerHead(Blocks):
    """Every head has a matrix of its own, (heads, width, width)."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (32, {'k', 'q'}, set()),
        'v': (8, {'v'}, set()),
        'o.weight': (8, set(), {'o'}),
    }
    REASONS = {
        'w': 'meets a tensor that needs all',
    }

    def make(self):
        self.w = nn.Parameter(torch.randn(4, 8, 8))

    def attend(self, q, k, v):
        return torch.einsum('bhnd,hde->bhne', super().attend(q, k, v), self.w)


class LinearOfEachHead(Blocks):
    """One linear layer for all heads."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (32, {'k', 'q'}, set()),
        'v': (8, {'v'}, {'each'}),
        'each': (8, {'each'}, {'o'}),
    }

    def make(self):
        self.each = nn.Linear(8, 8)

    def attend(self, q, k, v):
        return self.each(super().attend(q, k, v))


class PlacesOfHeads(Blocks):
    """BoTNet: positions (heads, width, ...) times queries."""

    REASONS = {
        'columns': 'the other factor',
        'rows': 'meets a tensor that needs all',
    }

    def make(self):
        self.rows = nn.Parameter(torch.randn(1, 4, 8, 7, 1))
        self.columns = nn.Parameter(torch.randn(1, 4, 8, 1, 1))

    def attend(self, q, k, v):
        places = (self.rows + self.columns).view(1, self.heads, -1, 7)
        return ((q @ k.transpose(-1, -2) + q @ places) * self.scale).softmax(-1) @ v


class BiasOfLayers(Blocks):
    """Swin V2: cosine attention, logits scaled per head, biases made by layers."""

    GROUPS = {
        'a': (32, STREAM, {'head', 'k', 'q', 'v'}),
        'q': (4, {'k', 'mlp.2', 'q', 'v'}, {'o'}),
        'mlp.0': (16, {'mlp.0'}, {'mlp.2'}),
        'mlp.0.weight': (2, set(), {'mlp.0'}),
    }
    REASONS = {
        'table': 'picks channels by number',
    }

    def make(self):
        self.logit = nn.Parameter(torch.ones(4, 1, 1))
        self.mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4, bias=False))
        self.register_buffer('table', torch.randn(13, 2))
        places = torch.arange(7)
        self.register_buffer('index', places[:, None] - places + 6)

    def attend(self, q, k, v):
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.logit.clamp(max=4.6).exp()
        bias = self.mlp(self.table)[self.index.view(-1)].view(7, 7, -1).permute(2, 0, 1)
        return (scores + 16 * bias.sigmoid()[None]).softmax(-1) @ v


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
    AverageOfHeads,
    WeightsPerHead,
    LinearOfEachHead,
    PlacesOfHeads,
    BiasOfLayers,
]
