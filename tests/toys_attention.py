"""Toy networks of kinds of attention between tokens, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv
from toys_heads import Blocks


class TalkingHeads(Blocks):
    """Linear layers over the heads, before and after the softmax: heads stay, dims go."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (8, {'after', 'k', 'q', 'v'}, {'before', 'o'}),
        'before': (4, {'before'}, {'after'}),
    }

    def make(self):
        self.before, self.after = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

    def attend(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * self.scale
        weights = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.after(weights) @ v


class OneKeyHead(Blocks):
    """Multi-query attention: one head of keys and values for all heads of queries."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (8, {'k', 'q'}, set()),
        'v': (8, {'v'}, {'o'}),
    }

    def make(self):
        self.k, self.v = nn.Linear(32, 8), nn.Linear(32, 8)

    def parts(self, x):
        q = self.split(self.q(x)).transpose(1, 2)
        return q, self.k(x)[:, None], self.v(x)[:, None]


class GroupedQueries(Blocks):
    """Grouped-query attention: 2 heads of keys and values for 4 of queries."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (2, {'k', 'q', 'v'}, {'o'}),
    }

    def make(self):
        self.k, self.v, self.kv_heads = nn.Linear(32, 16), nn.Linear(32, 16), 2

    def parts(self, x):
        q = self.split(self.q(x)).transpose(1, 2)
        shape = (*x.shape[:2], self.kv_heads, -1)
        k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.k, self.v))
        times = self.heads // self.kv_heads
        return q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


class LatentKeys(Blocks):
    """DeepSeek's latent attention: a part of the keys is the same for all heads."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q'}),
        'q': (4, {'q', 'up'}, {'o'}),
        'k#0': (16, {'k', 'norm'}, {'up'}),
    }
    REASONS = {
        'k#1': 'the other factor',
    }

    def make(self):
        self.rank, self.rope = 16, 6
        del self.v
        self.q, self.k = nn.Linear(32, 56), nn.Linear(32, 22)
        self.norm, self.up = nn.RMSNorm(16), nn.Linear(16, 4 * 16)

    def mix(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        latent, place = self.k(x).split([self.rank, self.rope], -1)
        up = self.up(self.norm(latent)).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = up.chunk(2, -1)
        place = place[:, None].expand(-1, self.heads, -1, -1)
        k = torch.cat([k, place], -1)
        return self.o(self.join(self.attend(q, k, v)))


class Differential(Blocks):
    """Two maps of attention for each head, the second subtracted."""

    def make(self):
        self.q, self.k = nn.Linear(32, 64), nn.Linear(32, 64)
        self.weight = nn.Parameter(torch.rand(1))

    def mix(self, x):
        b, n, _ = x.shape
        q, k = (
            layer(x).view(b, n, 2 * self.heads, -1).transpose(1, 2) for layer in (self.q, self.k)
        )
        v = self.split(self.v(x)).transpose(1, 2)
        maps = (q @ k.transpose(-1, -2) * self.scale).softmax(-1).view(b, self.heads, 2, n, n)
        return self.o(self.join((maps[:, :, 0] - self.weight * maps[:, :, 1]) @ v))


class Retention(Blocks):
    """Scores times decays of each head, then a group norm of the heads, then a gate."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'gate', 'head', 'k', 'q', 'v'}),
        'q': (4, {'gate', 'k', 'norm', 'q', 'v'}, {'o'}),
    }
    REASONS = {
        'decay#0': 'meets a tensor that needs all',
        'decay#1': 'meets a tensor that needs all',
    }

    def make(self):
        self.gate, self.norm = nn.Linear(32, 32), nn.GroupNorm(4, 32)
        self.register_buffer('decay', torch.rand(4, 7, 7))

    def mix(self, x):
        q, k, v = self.parts(x)
        y = self.join((q @ k.transpose(-1, -2) * self.decay) @ v)
        y = self.norm(y.flatten(0, 1)).view(y.shape)
        return self.o(y * F.silu(self.gate(x)))


class Lambda(Blocks):
    """Lambda networks: many heads of queries, one of keys and values."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (8, {'k', 'q'}, set()),
        'v': (8, {'v'}, {'o'}),
    }

    def make(self):
        self.k, self.v = nn.Linear(32, 8), nn.Linear(32, 8)

    def mix(self, x):
        q = self.split(self.q(x))
        context = torch.einsum('bnk,bnv->bkv', self.k(x).softmax(1), self.v(x))
        return self.o(torch.einsum('bnhk,bkv->bnhv', q, context).flatten(2))


class OneHeadOfTorch(Toy):
    """torch's attention with one head, and another one with four."""

    INPUT = (2, 7, 16)
    GROUPS = {
        'a': (96, {'a', 'one', 'one.out_proj'}, {'b', 'one', 'one.out_proj'}),
        'b': (68, {'b', 'four', 'four.out_proj'}, {'four', 'four.out_proj', 'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.one = nn.Linear(16, 32), nn.MultiheadAttention(32, 1, batch_first=True)
        self.b, self.four = nn.Linear(32, 64), nn.MultiheadAttention(64, 4, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = self.a(x)
        x = x + self.one(x, x, x)[0]
        x = self.b(x)
        x = x + self.four(x, x, x)[0]
        return self.head(x)


class Attention(nn.Module):
    """Any number of heads, the scale stored."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


class Stages(Toy):
    """One head, then two, then four (MiT, PVT)."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (16, {'a', 'one.proj'}, {'b', 'one.qkv'}),
        'one.qkv': (32, {'one.qkv'}, {'one.proj'}),
        'b': (32, {'b', 'two.proj'}, {'c', 'two.qkv'}),
        'two.qkv': (2, {'two.qkv'}, {'two.proj'}),
        'c': (64, {'c', 'four.proj'}, {'four.qkv', 'head'}),
        'four.qkv': (4, {'four.qkv'}, {'four.proj'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.one = nn.Linear(6, 16), Attention(16, 1)
        self.b, self.two = nn.Linear(16, 32), Attention(32, 2)
        self.c, self.four = nn.Linear(32, 64), Attention(64, 4)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x + self.one(x))
        x = self.c(x + self.two(x))
        return self.head(x + self.four(x))


class Kernel(nn.Module):
    """torch's kernel, which scales by the width of a head."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.o = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class KernelStages(Toy):
    """The same with torch's kernel."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (16, {'a', 'one.o'}, {'b', 'one.k', 'one.q', 'one.v'}),
        'one.q': (16, {'one.k', 'one.q'}, set()),
        'one.v': (32, {'one.v'}, {'one.o'}),
        'b': (32, {'b', 'two.o'}, {'head', 'two.k', 'two.q', 'two.v'}),
        'two.q': (2, {'two.k', 'two.q', 'two.v'}, {'two.o'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.one = nn.Linear(6, 16), Kernel(16, 1)
        self.b, self.two = nn.Linear(16, 32), Kernel(32, 2)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x + self.one(x))
        return self.head(x + self.two(x))


class ChannelsAttend(nn.Module):
    """Attention over the channels of a head, with a temperature per head."""

    def __init__(self):
        super().__init__()
        self.heads, self.qkv, self.o = 4, nn.Linear(32, 96), nn.Linear(32, 32)
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.o((weights @ v).permute(0, 3, 1, 2).reshape(b, n, c))


class CrossCovariance(Toy):
    """XCiT: its heads keep the width that they have in the stream."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (36, {'a', 'mix.o', 'mix.qkv'}, {'head', 'mix.o', 'mix.qkv'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.head = nn.Linear(6, 32), ChannelsAttend(), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.mix(x))


class KernelAttention(Toy):
    """Linear attention: feature maps of queries and keys, sums by einsum."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (4, {'k', 'q', 'v'}, {'o'}),
    }

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.head = 4, nn.Linear(6, 32), nn.Linear(32, 4)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        x = self.a(x)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).view(shape) for layer in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = torch.einsum('nlhd,nlhe->nhde', k, v)
        norm = 1 / (torch.einsum('nlhd,nhd->nlh', q, k.sum(1)) + 1e-6)
        out = torch.einsum('nlhd,nhde,nlh->nlhe', q, context, norm)
        return self.head(x + self.o(out.flatten(2)))


class External(Toy):
    """External attention: a memory of keys and one of values, for all heads."""

    INPUT = (2, 7, 6)
    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'q'}),
        'q': (8, {'q'}, {'keys'}),
        'keys': (10, {'keys'}, {'values'}),
        'values': (8, {'values'}, {'o'}),
    }

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.q = 4, nn.Linear(6, 32), nn.Linear(32, 32)
        self.keys, self.values = nn.Linear(8, 10, bias=False), nn.Linear(10, 8, bias=False)
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, -1).permute(0, 2, 1, 3)
        weights = self.keys(q).softmax(-2)
        weights = weights / (1e-9 + weights.sum(-1, keepdim=True))
        return self.head(x + self.o(self.values(weights).permute(0, 2, 1, 3).reshape(b, n, -1)))


class AgentsAttend(nn.Module):
    """Pooled queries attend for the others, with biases per head and agent."""

    def __init__(self):
        super().__init__()
        self.heads, self.scale, self.qkv = 4, 8**-0.5, nn.Linear(32, 96)
        self.bias = nn.Parameter(torch.randn(4, 4, 16))
        self.other = nn.Parameter(torch.randn(4, 16, 4))
        self.deep, self.o = conv(32, 32, groups=32), nn.Linear(32, 32)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, c).permute(2, 0, 1, 3).unbind(0)
        agents = F.adaptive_avg_pool2d(q.reshape(b, 4, 4, c).permute(0, 3, 1, 2), 2)
        agents = agents.reshape(b, c, -1).permute(0, 2, 1)
        image = v.transpose(1, 2).reshape(b, c, 4, 4)
        q, k, v, agents = (
            y.reshape(b, -1, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v, agents)
        )
        gathered = (agents * self.scale @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        spread = (q * self.scale @ agents.transpose(-2, -1) + self.other).softmax(-1) @ gathered
        y = spread.transpose(1, 2).reshape(b, n, c)
        return self.o(y + self.deep(image).permute(0, 2, 3, 1).reshape(b, n, c))


class Agents(Toy):
    """Agent attention: its heads keep the width that they have in the stream."""

    INPUT = (2, 16, 6)
    GROUPS = {
        'a': (36, {'a', 'mix.deep', 'mix.o', 'mix.qkv'}, {'head', 'mix.deep', 'mix.o', 'mix.qkv'}),
    }
    REASONS = {
        'mix.bias#0': 'meets a tensor that needs all',
        'mix.bias#1': 'meets a tensor that needs all',
        'mix.other#0': 'meets a tensor that needs all',
        'mix.other#1': 'meets a tensor that needs all',
    }

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.head = nn.Linear(6, 32), AgentsAttend(), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.mix(x))


class GatedUnit(Toy):
    """GAU: one head, queries and keys from one layer by scales and offsets."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'hidden', 'z'}),
        'hidden': (32, {'hidden'}, {'o'}),
        'z': (12, {'z'}, set()),
    }
    REASONS = {
        'beta': 'takes channels by their number',
    }

    INPUT = (2, 7, 6)

    def __init__(self):
        super().__init__()
        self.a, self.hidden, self.z = nn.Linear(6, 32), nn.Linear(32, 64), nn.Linear(32, 12)
        self.gamma, self.beta = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(2, 12))
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        v, gate = F.silu(self.hidden(x)).chunk(2, -1)
        q, k = (torch.einsum('...d,hd->...hd', F.silu(self.z(x)), self.gamma) + self.beta).unbind(
            -2
        )
        weights = F.relu(q @ k.transpose(-1, -2) / x.shape[1]) ** 2
        return self.head(x + self.o(weights @ v * gate))


TOYS = [
    TalkingHeads,
    OneKeyHead,
    GroupedQueries,
    LatentKeys,
    Differential,
    Retention,
    Lambda,
    OneHeadOfTorch,
    Stages,
    KernelStages,
    CrossCovariance,
    KernelAttention,
    External,
    Agents,
    GatedUnit,
]
