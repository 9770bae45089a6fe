"""Toy networks of what networks of other libraries do, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv

WRITERS = ('self_attn', 'self_attn.out_proj', 'norm1', 'linear2', 'norm2')
READERS = ('self_attn', 'self_attn.out_proj', 'linear1')


class FusedEncoder(Toy):
    """Without gradients torch runs a layer as one kernel, past the forwards of its parts."""

    INPUT = (2, 5, 6)
    UNCOUNTED = -2 * 2 * (2 * 5 * 5) * 4
    GROUPS = {
        'a': (
            10,  # eight channels and two heads, of which as large a share stays
            {'a', *(f'encoder.layers.0.{part}' for part in WRITERS)},
            {'head', *(f'encoder.layers.0.{part}' for part in READERS)},
        ),
        'encoder.layers.0.linear1': (
            12,
            {'encoder.layers.0.linear1'},
            {'encoder.layers.0.linear2'},
        ),
    }

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True)
        self.a, self.encoder = nn.Linear(6, 8), nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.encoder(self.a(x)))


class PooledByAttention(Toy):
    """torch's function of attention, which is given weights of layers of one's own (CLIP)."""

    INPUT = (2, 5, 6)
    UNCOUNTED = -2 * 2 * (2 * 2 * 1 * 5) * 4
    GROUPS = {'a': (20, {'a', 'q', 'k', 'v'}, {'q', 'k', 'v', 'head'})}  # 16 channels, 4 heads

    def __init__(self):
        super().__init__()
        self.a, self.head, self.heads = nn.Linear(6, 16), nn.Linear(16, 4), 4
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        x = self.a(x).transpose(0, 1)
        layers = self.q, self.k, self.v
        names = ('q_proj_weight', 'k_proj_weight', 'v_proj_weight')
        weights = {name: layer.weight for name, layer in zip(names, layers, strict=True)}
        pooled, _ = F.multi_head_attention_forward(
            x.mean(0, keepdim=True), x, x, x.shape[-1], self.heads, None,
            torch.cat([layer.bias for layer in layers]), None, None, False, 0.0,
            self.head.weight, self.head.bias, self.training,
            need_weights=False, use_separate_proj_weight=True, **weights,
        )  # fmt: skip
        return pooled[0]


class UnusedBranch(Toy):
    """The last block of a WaveNet computes a sum that nobody reads; it must fit all the same."""

    GROUPS = {
        'a': (8, {'a', 'b', 'unused'}, {'b', 'unused', 'skip'}),
        'skip': (6, {'skip'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = conv(3, 8), conv(8, 8), conv(8, 8)
        self.add, self.skip, self.head = nn.Identity(), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        x = x + self.b(x)
        self.add(x + self.unused(x))
        return self.head(self.skip(x).mean((2, 3)))


class UnusedSum(UnusedBranch):
    """The same, and no module is given the sum."""

    def __init__(self):
        super().__init__()
        self.add = None

    def forward(self, x):
        x = self.a(x)
        x = x + self.b(x)
        _ = x + self.unused(x)
        return self.head(self.skip(x).mean((2, 3)))


class FromVector(Toy):
    """A generator begins with a vector that becomes channels of a small image."""

    INPUT = (2, 6)
    GROUPS = {
        'a': (8, {'a'}, {'b'}),
        'b': (7, {'b'}, {'head'}),
        'c': (6, {'c'}, {'up'}),
        'up': (5, {'up'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'c.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.image, self.b = nn.Linear(6, 32), nn.Unflatten(1, (8, 2, 2)), conv(8, 7)
        self.c, self.up = nn.Linear(6, 24), nn.ConvTranspose2d(6, 5, 2, 2)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        image = F.interpolate(self.image(self.a(x)), scale_factor=2)
        other = self.up(self.c(x).view(len(x), -1, 2, 2))
        return self.head(torch.cat([self.b(image), other], 1).mean((2, 3)))


class CausalAttention(nn.Module):
    """Attention as language models write it: a mask in a buffer of its own, as wide as they are."""

    def __init__(self):
        super().__init__()
        self.n_head, self.n_embd = 4, 8
        self.c_attn, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer('bias', torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (
            part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for part in (q, k, v)
        )
        weights = (q @ k.transpose(-2, -1)).masked_fill(self.bias[:, :, :t, :t] == 0, -1e9)
        y = (weights.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, t, c)
        return self.proj(y)


class CausalMask(Toy):
    """The width of the tokens is that of all heads, and as large as the mask of a buffer."""

    INPUT = (2, 5, 6)
    ATTENTION = {'attention.c_attn', 'attention.proj'}
    GROUPS = {'a': (12, {'a', *ATTENTION}, {'head', *ATTENTION})}  # eight channels and four heads
    PINNED = frozenset({'head', 'a.weight'})
    REASONS = {
        'attention.bias#0': 'meets a tensor that needs all channels of attention.c_attn.weight',
        'attention.bias#2': 'meets a tensor that needs all channels of attention.c_attn.weight',
        'attention.bias#1': 'a place in a buffer',  # beyond the tokens
        'attention.bias#3': 'a place in a buffer',
    }

    def __init__(self):
        super().__init__()
        self.a, self.attention, self.head = nn.Linear(6, 8), CausalAttention(), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.attention(x))


class SizesInTheRoot(Toy):
    """A network that computes one size from another by itself: one stays twice the other."""

    INPUT = (2, 5, 6)
    GROUPS = {
        'a': (24, {'a', 'b'}, {'b', 'tail.0'}),
        'tail.0': (7, {'tail.0'}, {'tail.1'}),
    }
    PINNED = frozenset({'tail.1', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 16)
        self.tail = nn.Sequential(nn.Linear(16, 7), nn.Linear(7, 4))

    def forward(self, x):
        x = self.a(x)
        return self.tail(self.b(x).view(*x.shape[:2], x.shape[2] * 2))


class RotaryGrouped(Toy):
    """Rotary embeddings; queries of four heads share the keys of two, which come from a cache."""

    INPUT = (2, 5, 6)
    UNCOUNTED = -2 * 2 * (2 * 2 * 5 * 5) * 6
    GROUPS = {'a': (9, {'a', 'out'}, {'head', 'kv', 'q'}), 'q': (2, {'kv', 'q'}, {'out'})}
    REASONS = {'inv_freq': 'it meets a tensor that needs all channels of'}

    def __init__(self):
        super().__init__()
        self.a, self.q, self.kv = nn.Linear(6, 9), nn.Linear(9, 24), nn.Linear(9, 24)
        self.out, self.head, self.head_dim = nn.Linear(24, 9), nn.Linear(9, 4), 6
        self.register_buffer('inv_freq', 0.5 ** torch.arange(3.0))

    def rotated(self, x):
        angles = torch.arange(x.shape[2])[:, None].to(x) @ self.inv_freq[None].to(x)
        angles = torch.cat([angles, angles], -1)
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    def forward(self, x):
        x = self.a(x)
        q = self.q(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).view(*x.shape[:2], -1, 2, self.head_dim).permute(3, 0, 2, 1, 4)
        k = torch.cat([torch.tensor([], dtype=x.dtype), self.rotated(k)], -2)
        y = F.scaled_dot_product_attention(self.rotated(q), k, v, enable_gqa=True)
        return self.head(x + self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1)))


class MaskedAttention(Toy):
    """A bias that is learned: torch has a softmax of its own for it."""

    INPUT = (2, 5, 6)
    GROUPS = {'a': (9, {'a', 'out'}, {'head', 'qkv'}), 'qkv': (3, {'qkv'}, {'out'})}
    PINNED = frozenset({'head', 'a.weight', 'bias#0', 'bias#1'})

    def __init__(self):
        super().__init__()
        self.a, self.qkv = nn.Linear(6, 9), nn.Linear(9, 36)
        self.out, self.head, self.heads = nn.Linear(12, 9), nn.Linear(9, 4), 3
        self.bias = nn.Parameter(torch.zeros(3, 5, 5))

    def forward(self, x):
        x = self.a(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


class MessagePassing(Toy):
    """A graph network: rows are gathered by number, and summed into rows by number."""

    INPUT = (7, 6)
    GROUPS = {'a': (8, {'a', 'message'}, {'message', 'b'}), 'b': (5, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.message, self.b = nn.Linear(6, 8), nn.Linear(16, 8), nn.Linear(8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        start, end = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 2], [1, 2, 3, 4, 5, 6, 0, 3, 5]])
        x = self.a(x)
        sent = self.message(torch.cat([x[start], x[end]], -1))
        x = x + torch.zeros_like(x).index_add(0, end, sent)
        index = end[:, None].expand(-1, x.shape[1])
        x = x + x.new_zeros(x.shape).scatter_reduce(0, index, sent, 'amax')
        return self.head(self.b(x).relu())


class RunningSums(Toy):
    """Running sums and maxima along positions."""

    INPUT = (2, 5, 6)
    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (7, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = self.a(x).logcumsumexp(1).cumsum(1).tanh()
        x = self.b(x.cummax(1).values)
        return self.head(x.topk(3, dim=1).values.sum(1))


class RunningSumOfChannels(Toy):
    """A sum along channels runs over neighbours, which are not the same in a subnet."""

    INPUT = (2, 5, 6)
    GROUPS = {'b': (7, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})
    REASONS = {'a': 'goes along the channels'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x):
        return self.head(self.b(self.a(x).logcumsumexp(-1)).relu())


class ConvOfBatchNormedWeight(nn.Conv2d):
    """NFNets and the ResNets of BiT are made of it."""

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class WeightsByBatchNorm(Toy):
    """Weights are standardised by a batch norm over what every output reads."""

    GROUPS = {
        'a': (8, {'a'}, {'b'}),
        'b': (3, {'b'}, {'c'}),
        'c': (6, {'c'}, {'head'}),
    }
    KERNELS = [f'{layer}.weight#{dim}' for layer in 'abc' for dim in range(2)]
    PINNED = frozenset({'head', 'a.weight#2', *KERNELS})

    def __init__(self):
        super().__init__()
        self.a = ConvOfBatchNormedWeight(3, 8, 3, padding=1)
        self.b = ConvOfBatchNormedWeight(8, 6, 3, padding=1)
        self.c, self.head = ConvOfBatchNormedWeight(6, 6, 3, groups=2), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x)).relu()).mean((2, 3)))


class ScaleWithShape(nn.Module):
    """A layer scale that keeps the shape in which it is multiplied."""

    def __init__(self, channels):
        super().__init__()
        self.shape, self.scale = (channels, 1, 1), nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x * self.scale.view(self.shape)


class ScaledByShape(Toy):
    """A parameter is viewed by sizes that its module has stored."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.scale, self.b = conv(3, 8), ScaleWithShape(8), conv(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(self.scale(self.a(x)).relu()).mean((2, 3)))


class OneHead(Toy):
    """A single head cannot go; torch scales by the width that its queries have left."""

    INPUT = (2, 5, 6)
    GROUPS = {
        'a': (8, {'a', 'out'}, {'q', 'k', 'v', 'head'}),
        'q': (12, {'q', 'k'}, set()),
        'v': (9, {'v'}, {'out'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(8, 12)
        self.v, self.out, self.head = nn.Linear(8, 9), nn.Linear(9, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        q, k, v = (layer(x)[:, None] for layer in (self.q, self.k, self.v))
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v)[:, 0]))


class AutoEncoder(Toy):
    """A code becomes an image of the encoder's shape: each of its channels is some outputs."""

    OPTIONS = dict(ties=[('b', 'from_code')])
    GROUPS = {
        'a': (8, {'a'}, {'b'}),
        'b': (12, {'b', 'from_code'}, {'to_code', 'up'}),
        'to_code': (6, {'to_code'}, {'from_code'}),
        'up': (5, {'up'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8, stride=2), conv(8, 12, stride=2)
        self.to_code, self.from_code = nn.Linear(48, 6), nn.Linear(6, 48)
        self.up, self.head = nn.ConvTranspose2d(12, 5, 2, 2), nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        decoded = self.from_code(self.to_code(x.flatten(1))).view(x.shape)
        return self.head(F.relu(self.up(F.relu(decoded))).mean((2, 3)))


TOYS = [
    AutoEncoder,
    FusedEncoder,
    PooledByAttention,
    UnusedBranch,
    UnusedSum,
    FromVector,
    CausalMask,
    SizesInTheRoot,
    RotaryGrouped,
    MaskedAttention,
    MessagePassing,
    RunningSums,
    RunningSumOfChannels,
    WeightsByBatchNorm,
    ScaledByShape,
    OneHead,
]
