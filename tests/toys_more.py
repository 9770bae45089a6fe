import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv
from toys_heads import Blocks


class WeightsPerHead(Blocks):
    """Every head has a matrix of its own, (heads, width, width)."""

    def make(self):
        self.w = nn.Parameter(torch.randn(4, 8, 8))

    def attend(self, q, k, v):
        return torch.einsum('bhnd,hde->bhne', super().attend(q, k, v), self.w)


class LinearOfEachHead(Blocks):
    """One linear layer for all heads."""

    def make(self):
        self.each = nn.Linear(8, 8)

    def attend(self, q, k, v):
        return self.each(super().attend(q, k, v))


class LatentKeys(Blocks):
    """DeepSeek's latent attention: a part of the keys is the same for all heads."""

    def make(self):
        self.rank, self.rope = 16, 6
        self.q, self.k, self.v = nn.Linear(32, 56), nn.Linear(32, 22), nn.Identity()
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
        q, k = (l(x).view(b, n, 2 * self.heads, -1).transpose(1, 2) for l in (self.q, self.k))
        v = self.split(self.v(x)).transpose(1, 2)
        maps = (q @ k.transpose(-1, -2) * self.scale).softmax(-1).view(b, self.heads, 2, n, n)
        return self.o(self.join((maps[:, :, 0] - self.weight * maps[:, :, 1]) @ v))


class Retention(Blocks):
    """Scores times decays of each head, then a group norm of the heads, then a gate."""

    def make(self):
        self.gate, self.norm = nn.Linear(32, 32), nn.GroupNorm(4, 32)
        self.register_buffer('decay', torch.rand(4, 7, 7))

    def mix(self, x):
        q, k, v = self.parts(x)
        y = self.join((q @ k.transpose(-1, -2) * self.decay) @ v)
        y = self.norm(y.flatten(0, 1)).view(y.shape)
        return self.o(y * F.silu(self.gate(x)))


class PlacesOfHeads(Blocks):
    """BoTNet: positions (heads, width, ...) times queries."""

    def make(self):
        self.rows, self.columns = nn.Parameter(torch.randn(1, 4, 8, 7, 1)), nn.Parameter(torch.randn(1, 4, 8, 1, 1))

    def attend(self, q, k, v):
        places = (self.rows + self.columns).view(1, self.heads, -1, 7)
        return ((q @ k.transpose(-1, -2) + q @ places) * self.scale).softmax(-1) @ v


class Lambda(Blocks):
    """Lambda networks: many heads of queries, one of keys and values."""

    def make(self):
        self.k, self.v = nn.Linear(32, 8), nn.Linear(32, 8)

    def mix(self, x):
        q = self.split(self.q(x))
        context = torch.einsum('bnk,bnv->bkv', self.k(x).softmax(1), self.v(x))
        return self.o(torch.einsum('bnhk,bkv->bnhv', q, context).flatten(2))


class BiasOfLayers(Blocks):
    """Swin V2: cosine attention, logits scaled per head, biases made by layers."""

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


class Pool(nn.Module):
    """CLIP's pooling by attention: torch's function with weights of four layers."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.q, self.k, self.v, self.c = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        x = x.transpose(0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        x, _ = F.multi_head_attention_forward(
            x[:1], x, x, x.shape[-1], self.num_heads, None,
            torch.cat([self.q.bias, self.k.bias, self.v.bias]), None, None, False, 0,
            self.c.weight, self.c.bias, use_separate_proj_weight=True,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
            training=self.training, need_weights=False)
        return x[0]


class AttentionPool(Toy):
    INPUT = (2, 7, 6)

    def __init__(self):
        super().__init__()
        self.a, self.pool, self.head = nn.Linear(6, 32), Pool(), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.pool(self.a(x)))


class GatedUnit(Toy):
    """GAU: one head, queries and keys from one layer by scales and offsets."""
    INPUT = (2, 7, 6)

    def __init__(self):
        super().__init__()
        self.a, self.hidden, self.z = nn.Linear(6, 32), nn.Linear(32, 64), nn.Linear(32, 12)
        self.gamma, self.beta = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(2, 12))
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        v, gate = F.silu(self.hidden(x)).chunk(2, -1)
        q, k = (torch.einsum('...d,hd->...hd', F.silu(self.z(x)), self.gamma) + self.beta).unbind(-2)
        weights = F.relu(q @ k.transpose(-1, -2) / x.shape[1]) ** 2
        return self.head(x + self.o(weights @ v * gate))


class Efficient(Toy):
    """Efficient attention of images: queries normalised over channels."""

    def __init__(self):
        super().__init__()
        self.heads, self.a, self.q, self.k, self.v, self.o = 2, conv(3, 32), *(conv(32, 16, 1) for _ in range(3)), conv(16, 32, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        b, _, h, w = x.shape
        q, k, v = (l(x).reshape(b, -1, h * w) for l in (self.q, self.k, self.v))
        out = []
        for q, k, v in zip(q.chunk(self.heads, 1), k.chunk(self.heads, 1), v.chunk(self.heads, 1)):
            context = k.softmax(2) @ v.transpose(1, 2)
            out.append((context.transpose(1, 2) @ q.softmax(1)).reshape(b, -1, h, w))
        return self.head((x + self.o(torch.cat(out, 1))).mean((2, 3)))


class OneHeadModule(nn.Module):
    def __init__(self, d, w):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d, w, bias=False) for _ in range(3))

    def forward(self, x):
        k = self.k(x)
        w = self.q(x) @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        return w.softmax(-1) @ self.v(x)


class ListOfHeads(Toy):
    INPUT = (2, 7, 6)

    def __init__(self):
        super().__init__()
        self.a, self.heads = nn.Linear(6, 32), nn.ModuleList(OneHeadModule(32, 8) for _ in range(4))
        self.o, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.o(torch.cat([h(x) for h in self.heads], -1)))


class StackOfHeads(Blocks):
    """Heads are layers of their own whose results are stacked."""

    def make(self):
        self.q, self.k, self.v = (nn.ModuleList(nn.Linear(32, 8) for _ in range(4)) for _ in range(3))

    def parts(self, x):
        return [torch.stack([layer(x) for layer in layers], 1) for layers in (self.q, self.k, self.v)]


class XCA(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.qkv = 4, nn.Linear(32, 96)
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))
        self.o = nn.Linear(32, 32)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.o((weights @ v).permute(0, 3, 1, 2).reshape(b, n, c))


class InModule(Toy):
    INPUT = (2, 7, 6)

    def __init__(self):
        super().__init__()
        self.a, self.m, self.head = nn.Linear(6, 32), XCA(), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x)
        return self.head(x + self.m(x))


TOYS = [WeightsPerHead, LinearOfEachHead, LatentKeys, Differential, Retention, PlacesOfHeads, Lambda, BiasOfLayers, AttentionPool, GatedUnit, Efficient, ListOfHeads, StackOfHeads, InModule]
