"""Toy networks of kinds of attention: one head, over images, over channels, linear ones."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv


class OneHeadOfTorch(Toy):
    """torch's attention with one head, and another one with four."""

    INPUT = (2, 7, 16)
    GROUPS = {}

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
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


class Stages(Toy):
    """One head, then two, then four (MiT, PVT)."""

    INPUT = (2, 7, 6)
    GROUPS = {}

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
    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.a, self.one = nn.Linear(6, 16), Kernel(16, 1)
        self.b, self.two = nn.Linear(16, 32), Kernel(32, 2)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x + self.one(x))
        return self.head(x + self.two(x))


class OneHeadByHand(Toy):
    """One head written out, the width read from the keys."""

    INPUT = (2, 7, 6)
    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(16, 12)
        self.v, self.o, self.head = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = (q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(-1)
        return self.head(x + self.o(weights @ v))


class NonLocal(Toy):
    """SAGAN, non-local networks: one head over the places of an image, no scale."""

    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.a, self.q, self.k, self.v = conv(3, 16), conv(16, 4, 1), conv(16, 4, 1), conv(16, 8, 1)
        self.o, self.gamma = conv(8, 16, 1), nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.shape
        q = self.q(x).view(b, -1, h * w).permute(0, 2, 1)
        k = F.max_pool2d(self.k(x), 2).view(b, -1, h * w // 4)
        v = F.max_pool2d(self.v(x), 2).view(b, -1, h * w // 4)
        out = torch.bmm(v, torch.softmax(torch.bmm(q, k), dim=-1).permute(0, 2, 1))
        x = self.gamma * self.o(out.view(b, -1, h, w)) + x
        return self.head(x.mean((2, 3)))


class SaganInStream(Toy):
    """SAGAN with values as wide as the stream, which they meet."""

    GROUPS = {}

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

    GROUPS = {}

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

    GROUPS = {}

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

    GROUPS = {}

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

    GROUPS = {}

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

    GROUPS = {}

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


class CrossCovariance(Toy):
    """XCiT: attention over the channels of a head, with a temperature per head."""

    INPUT = (2, 7, 6)
    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.qkv = 4, nn.Linear(6, 32), nn.Linear(32, 96)
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.head(x + self.o((weights @ v).permute(0, 3, 1, 2).reshape(b, n, c)))


class TransposedAttention(Toy):
    """Restormer's MDTA: the same for images, with depthwise convolutions and a chunk."""

    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.qkv = 4, conv(3, 32), conv(32, 96, 1)
        self.deep, self.o = conv(96, 96, groups=96), conv(32, 32, 1)
        self.temperature, self.head = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        b, c, h, w = x.shape
        parts = self.deep(self.qkv(x)).chunk(3, 1)
        q, k, v = (part.reshape(b, self.heads, -1, h * w) for part in parts)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.head((x + self.o((weights @ v).reshape(b, -1, h, w))).mean((2, 3)))


class LinearAttention(Toy):
    """EfficientViT's LiteMLA: ReLU kernels, values padded by a one, several scales."""

    GROUPS = {}

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


class KernelAttention(Toy):
    """Linear attention: feature maps of queries and keys, sums by einsum."""

    INPUT = (2, 7, 6)
    GROUPS = {}

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
    GROUPS = {}

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


class ExternalOfImages(Toy):
    """The same with one head, for an image, with values tied to keys."""

    GROUPS = {}

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


class Agents(Toy):
    """Agent attention: pooled queries attend for the others, with biases per agent."""

    INPUT = (2, 16, 6)
    GROUPS = {}

    def __init__(self):
        super().__init__()
        self.heads, self.scale, self.a, self.qkv = 4, 8**-0.5, nn.Linear(6, 32), nn.Linear(32, 96)
        self.bias = nn.Parameter(torch.randn(4, 4, 16))
        self.other = nn.Parameter(torch.randn(4, 16, 4))
        self.deep = conv(32, 32, groups=32)
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
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
        y = y + self.deep(image).permute(0, 2, 3, 1).reshape(b, n, c)
        return self.head(x + self.o(y))


TOYS = [
    OneHeadOfTorch,
    Stages,
    KernelStages,
    OneHeadByHand,
    NonLocal,
    SaganInStream,
    PartialSelfAttention,
    AttentionInStream,
    ConvBlockAttention,
    Axial,
    CrissCross,
    CrossCovariance,
    TransposedAttention,
    LinearAttention,
    KernelAttention,
    External,
    ExternalOfImages,
    Agents,
]
