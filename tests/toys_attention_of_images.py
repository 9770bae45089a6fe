"""Toy networks of kinds of attention in images, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv
from toys_attention import Attention


class NonLocal(Toy):
    """SAGAN, non-local networks: one head over the places of an image, no scale."""

    GROUPS = {
        'a': (16, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'q': (4, {'k', 'q'}, set()),
        'v': (8, {'v'}, {'o'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k, self.v = conv(3, 16), conv(16, 4, 1), conv(16, 4, 1), conv(16, 8, 1)
        self.o, self.gamma = conv(8, 16, 1), nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        b, _, h, w = x.shape
        q = self.q(x).view(b, -1, h * w).permute(0, 2, 1)
        k = F.max_pool2d(self.k(x), 2).view(b, -1, h * w // 4)
        v = F.max_pool2d(self.v(x), 2).view(b, -1, h * w // 4)
        out = torch.bmm(v, torch.softmax(torch.bmm(q, k), dim=-1).permute(0, 2, 1))
        x = self.gamma * self.o(out.view(b, -1, h, w)) + x
        return self.head(x.mean((2, 3)))


class SaganInStream(Toy):
    """SAGAN with values as wide as the stream, which they meet."""

    GROUPS = {
        'a': (16, {'a', 'v'}, {'head', 'k', 'q', 'v'}),
        'q': (2, {'k', 'q'}, set()),
    }

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k, self.v = conv(3, 16), conv(16, 2, 1), conv(16, 2, 1), conv(16, 16)
        self.gamma, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.size()
        q = self.q(x).view(b, -1, h * w).permute(0, 2, 1)
        energy = torch.bmm(q, self.k(x).view(b, -1, h * w))
        v = self.v(x).view(b, -1, h * w)
        out = torch.bmm(v, energy.softmax(-1).permute(0, 2, 1)).view(b, c, h, w)
        return self.head((self.gamma * out + x).mean((2, 3)))


class PointwiseSpatial(nn.Module):
    """Attention of YOLOv10 and YOLO11: keys half as wide as values, positions by convolution."""

    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim**-0.5
        self.qkv = nn.Conv2d(dim, dim + 2 * self.key_dim * heads, 1)
        self.proj, self.pe = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        b, c, h, w = x.shape
        n = h * w
        qkv = self.qkv(x).view(b, self.num_heads, self.key_dim * 2 + self.head_dim, n)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        weights = (q.transpose(-2, -1) @ k * self.scale).softmax(-1)
        x = (v @ weights.transpose(-2, -1)).view(b, c, h, w) + self.pe(v.reshape(b, c, h, w))
        return self.proj(x)


class PartialSelfAttention(Toy):
    """C2PSA: half of the channels go through attention and a feed-forward part."""

    GROUPS = {
        'a': (32, {'a'}, {'both'}),
        'both': (
            66,
            {'attention.pe', 'attention.proj', 'attention.qkv', 'both', 'ffn.2'},
            {'attention.pe', 'attention.proj', 'attention.qkv', 'ffn.0', 'joined'},
        ),
        'ffn.0': (64, {'ffn.0'}, {'ffn.2'}),
        'joined': (32, {'joined'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.both, self.joined = conv(3, 32), conv(32, 64, 1), conv(64, 32, 1)
        self.attention = PointwiseSpatial(32, 2)
        self.ffn = nn.Sequential(conv(32, 64, 1), nn.SiLU(), conv(64, 32, 1))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        first, second = self.both(self.a(x)).chunk(2, 1)
        second = second + self.attention(second)
        second = second + self.ffn(second)
        return self.head(self.joined(torch.cat([first, second], 1)).mean((2, 3)))


class AttentionInStream(Toy):
    """The result of attention, seen as an image, meets the stream without a layer between."""

    GROUPS = {
        'a': (4, {'a', 'k', 'q', 'v'}, {'b', 'k', 'q', 'v'}),
        'b': (16, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k, self.v = (conv(i, 32, 1) for i in (3, 32, 32, 32))
        self.heads, self.b, self.head = 4, conv(32, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.shape
        q, k, v = (layer(x).view(b, self.heads, -1, h * w) for layer in (self.q, self.k, self.v))
        weights = (q.transpose(-2, -1) @ k / 8**0.5).softmax(-1)
        x = x + (v @ weights.transpose(-2, -1)).view(b, c, h, w)
        return self.head(self.b(x).mean((2, 3)))


class ConvBlockAttention(Toy):
    """CBAM: gates of channels, then of places."""

    GROUPS = {
        'a': (16, {'a', 'up'}, {'b', 'down'}),
        'down': (8, {'down'}, {'up'}),
        'b': (8, {'b'}, {'head'}),
    }
    REASONS = {
        'space.weight': 'has positions there',
    }

    def __init__(self):
        super().__init__()
        self.a, self.down, self.up = conv(3, 16), conv(16, 8, 1), conv(8, 16, 1)
        self.space, self.b, self.head = conv(2, 1, 7), conv(16, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        pools = [F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)]
        x = x * sum(self.up(F.relu(self.down(y))) for y in pools).sigmoid()
        gate = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.head(self.b(x * self.space(gate).sigmoid()).mean((2, 3)))


class Axial(Toy):
    """Attention along rows, then along columns, places folded into the batch."""

    GROUPS = {
        'a': (32, {'a', 'columns.proj', 'rows.proj'}, {'columns.qkv', 'head', 'rows.qkv'}),
        'rows.qkv': (4, {'rows.qkv'}, {'rows.proj'}),
        'columns.qkv': (4, {'columns.qkv'}, {'columns.proj'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.rows, self.columns = conv(3, 32), Attention(32, 4), Attention(32, 4)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = x + self.rows(x.reshape(b * h, w, c)).view(b, h, w, c)
        x = x.transpose(1, 2)
        x = x + self.columns(x.reshape(b * w, h, c)).view(b, w, h, c)
        return self.head(x.mean((1, 2)))


class CrissCross(Toy):
    """CCNet: a place attends to its row and its column."""

    GROUPS = {
        'a': (16, {'a', 'v'}, {'b', 'k', 'q', 'v'}),
        'q': (4, {'k', 'q'}, set()),
        'b': (8, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k, self.v = (
            conv(3, 16),
            conv(16, 4, 1),
            conv(16, 4, 1),
            conv(16, 16, 1),
        )
        self.gamma, self.b, self.head = nn.Parameter(torch.ones(1)), conv(16, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        b, _, h, w = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)

        def columns(y):
            return y.permute(0, 3, 1, 2).contiguous().view(b * w, -1, h)

        def rows(y):
            return y.permute(0, 2, 1, 3).contiguous().view(b * h, -1, w)

        by_column = (columns(q).transpose(1, 2) @ columns(k)).view(b, w, h, h).permute(0, 2, 1, 3)
        by_row = (rows(q).transpose(1, 2) @ rows(k)).view(b, h, w, w)
        weights = torch.cat([by_column, by_row], 3).softmax(3)
        vertical = weights[..., :h].permute(0, 2, 1, 3).contiguous().view(b * w, h, h)
        horizontal = weights[..., h : h + w].contiguous().view(b * h, w, w)
        down = (columns(v) @ vertical.transpose(1, 2)).view(b, w, -1, h).permute(0, 2, 3, 1)
        across = (rows(v) @ horizontal.transpose(1, 2)).view(b, h, -1, w).permute(0, 2, 1, 3)
        return self.head(self.b(self.gamma * (down + across) + x).mean((2, 3)))


class TransposedAttention(Toy):
    """Restormer's MDTA: the same for images, with depthwise convolutions and a chunk."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'qkv'}),
        'qkv': (4, {'deep', 'qkv'}, {'deep', 'o'}),
    }

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.qkv = 4, conv(3, 32), conv(32, 96, 1)
        self.deep, self.o = conv(96, 96, groups=96), conv(32, 32, 1)
        self.temperature, self.head = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        b, _, h, w = x.shape
        parts = self.deep(self.qkv(x)).chunk(3, 1)
        q, k, v = (part.reshape(b, self.heads, -1, h * w) for part in parts)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.head((x + self.o((weights @ v).reshape(b, -1, h, w))).mean((2, 3)))


class LinearAttention(Toy):
    """EfficientViT's LiteMLA: ReLU kernels, values padded by a one, several scales."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'qkv'}),
        'qkv': (128, {'deep', 'point', 'qkv'}, {'deep', 'o', 'point'}),
    }

    def __init__(self):
        super().__init__()
        self.dim, self.a, self.qkv = 8, conv(3, 32), conv(32, 96, 1, bias=False)
        self.deep = conv(96, 96, 5, groups=96, bias=False)
        self.point = conv(96, 96, 1, groups=12, bias=False)
        self.o, self.head = conv(64, 32, 1), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.point(self.deep(qkv))], 1)
        b, _, h, w = both.shape
        both = both.reshape(b, -1, 3 * self.dim, h * w).transpose(-1, -2)
        q, k, v = (both[..., i * self.dim : (i + 1) * self.dim] for i in range(3))
        q, k, v = F.relu(q), F.relu(k), F.pad(v, (0, 1), value=1)
        out = q @ (k.transpose(-1, -2) @ v)
        out = out[..., :-1] / (out[..., -1:] + 1e-6)
        out = out.transpose(-1, -2).reshape(b, -1, h, w)
        return self.head((x + self.o(out)).mean((2, 3)))


class ExternalOfImages(Toy):
    """The same with one head, for an image, with values tied to keys."""

    GROUPS = {
        'a': (16, {'a', 'c'}, {'b', 'head'}),
        'b': (16, {'b', 'memory'}, {'c', 'memory'}),
        'memory': (10, {'memory'}, {'memory'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.memory = conv(3, 16), conv(16, 16, 1), nn.Conv1d(16, 10, 1, bias=False)
        self.c, self.head = conv(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x)
        b, c, h, w = y.size()
        weights = self.memory(y.view(b, c, h * w)).softmax(-1)
        weights = weights / (1e-9 + weights.sum(1, keepdim=True))
        y = F.conv1d(weights, self.memory.weight.permute(1, 0, 2)).view(b, c, h, w)
        return self.head((x + F.relu(self.c(y))).mean((2, 3)))


class Efficient(Toy):
    """Efficient attention: keys normalised over places, queries over the channels of a head."""

    GROUPS = {
        'a': (32, {'a', 'o'}, {'head', 'k', 'q', 'v'}),
        'v': (16, {'v'}, {'o'}),
    }
    REASONS = {
        'q': 'normalises over the channels',
        'k': 'the other factor',
    }

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.o, self.head = 2, conv(3, 32), conv(16, 32, 1), nn.Linear(32, 4)
        self.q, self.k, self.v = (conv(32, 16, 1) for _ in range(3))

    def forward(self, x):
        x = self.a(x)
        b, _, h, w = x.shape
        layers = (self.q, self.k, self.v)
        parts = [layer(x).reshape(b, -1, h * w).chunk(self.heads, 1) for layer in layers]
        results = []
        for q, k, v in zip(*parts, strict=True):
            context = k.softmax(2) @ v.transpose(1, 2)
            results.append((context.transpose(1, 2) @ q.softmax(1)).reshape(b, -1, h, w))
        return self.head((x + self.o(torch.cat(results, 1))).mean((2, 3)))


TOYS = [
    NonLocal,
    SaganInStream,
    PartialSelfAttention,
    AttentionInStream,
    ConvBlockAttention,
    Axial,
    CrissCross,
    TransposedAttention,
    LinearAttention,
    ExternalOfImages,
    Efficient,
]
