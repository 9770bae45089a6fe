"""Toy networks that compute the weights of their layers, or build constants, in the forward."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv, toys_of


class Fused(nn.Module):
    """Convolutions and norms in training, one convolution with all of their weights in eval."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inputs = inputs
        self.wide, self.small = (
            conv(inputs, outputs, bias=False),
            conv(inputs, outputs, 1, bias=False),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in range(2)])
        self.identity = nn.BatchNorm2d(outputs) if inputs == outputs else None

    def fused(self, kernel, norm):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return kernel * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale

    def forward(self, x):
        if self.training:
            x, y = self.norms[0](self.wide(x)) + self.norms[1](self.small(x)), x
            return F.relu(x if self.identity is None else x + self.identity(y))
        parts = [
            self.fused(self.wide.weight, self.norms[0]),
            self.fused(F.pad(self.small.weight, [1] * 4), self.norms[1]),
        ]
        if self.identity is not None:
            kernel = torch.zeros(self.inputs, self.inputs, 3, 3, dtype=x.dtype)
            for i in range(self.inputs):
                kernel[i, i, 1, 1] = 1
            parts.append(self.fused(kernel, self.identity))
        kernels, biases = zip(*parts, strict=True)
        return F.relu(F.conv2d(x, sum(kernels), sum(biases), padding=1))


class FusedInForward(Toy):
    """RepVGG whose branches are fused in eval mode, whenever it runs."""

    A, B, C = (
        {name, *(f'{name}.{part}' for part in ('wide', 'small', 'norms.0', 'norms.1'))}
        for name in 'abc'
    )
    READ = {f'{name}{part}' for name in 'bc' for part in ('', '.wide', '.small')}
    GROUPS = {'a': (8, {*A, *B, 'b.identity'}, READ), 'c': (6, C, {'head'})}
    PINNED = frozenset({'head', 'a.small.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = Fused(3, 8), Fused(8, 8), Fused(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x))).mean((2, 3)))


class Mixture(nn.Module):
    """A convolution whose weight is another mixture of weights for every sample (CondConv)."""

    def __init__(self, inputs, outputs, experts=4):
        super().__init__()
        self.inputs, self.outputs, self.experts = inputs, outputs, experts
        self.weight = nn.Parameter(torch.randn(experts, outputs, inputs, 3, 3))
        self.routing = nn.Linear(inputs, experts)

    def forward(self, x):
        n, c, h, w = x.shape
        share = self.routing(x.mean((2, 3))).sigmoid()
        weight = (share @ self.weight.view(self.experts, -1)).view(-1, self.inputs, 3, 3)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n)
        return y.view(n, self.outputs, h, w)


class MixedWeights(Toy):
    """Both channels of every weight go, though a mixture has them in one dim."""

    GROUPS = {
        'a': (8, {'a', 'b'}, {'b', 'b.routing'}),
        'b': (6, {'b', 'c'}, {'c', 'c.routing'}),
        'b.routing': (4, {'b.routing'}, {'b'}),
        'c': (5, {'c'}, {'head'}),
        'c.routing': (4, {'c.routing'}, {'c'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = (
            conv(3, 8),
            Mixture(8, 6),
            Mixture(6, 5),
            nn.Linear(5, 4),
        )

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class Correlated(Toy):
    """Features are the kernels for others: one for each sample, and one for each channel."""

    GROUPS = {'a': (8, {'a'}, {'b', 'k'}), 'b': (6, {'b', 'k'}, {'', 'head'})}
    PINNED = frozenset({'head', 'a.weight', 'head.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.k = conv(3, 8), conv(8, 6), nn.Conv2d(8, 6, 3, 2)
        self.head = conv(7, 4, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        y, k = self.b(x), self.k(x)
        n, c, h, w = y.shape
        rows, size = y.reshape(1, n * c, h, w), k.shape[-1]
        whole = F.conv2d(rows, k, groups=n).transpose(0, 1)
        each = F.conv2d(rows, k.reshape(n * c, 1, size, size), groups=n * c)
        return self.head(torch.cat([whole, each.view(n, c, *each.shape[2:])], 1))


class FiltersOfFeatures(Toy):
    """A depthwise convolution with filters that a layer makes: a channel is as many of its outputs
    as the kernel has places.
    """

    GROUPS = {'a': (8, {'a', 'k'}, {'', 'b', 'k'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.k, self.b = conv(3, 8), nn.Conv2d(8, 8 * 9, 1), conv(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        filters = self.k(x.mean((2, 3), keepdim=True)).view(n * c, 1, 3, 3)
        x = F.conv2d(x.reshape(1, n * c, h, w), filters, padding=1, groups=n * c)
        return self.head(self.b(x.view(n, c, h, w)).mean((2, 3)))


class Divided(Toy):
    """Features over a parameter, and weights that are rounded in steps of one (LSQ)."""

    GROUPS = {'a': (8, {'a'}, {''}), 'head.weight': (6, set(), {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.scale, self.step = (nn.Parameter(torch.rand(n)) for n in (8, 6))

    def forward(self, x):
        x = F.relu(self.a(x)) / self.scale.view(1, -1, 1, 1)
        step = self.step.abs().sqrt().view(-1, 1, 1, 1) + 1
        steps = self.b.weight / step / self.scale.log().cosh().view(1, -1, 1, 1)
        steps = steps + (steps.round() - steps).detach()
        return self.head(F.conv2d(x, steps * step, self.b.bias).mean((2, 3)))


class DynamicFilters(Toy):
    """A layer makes two matrices for every sample: channels of data are read and made by them."""

    GROUPS = {'a': (16, {'a', 'dynamic', 'after'}, {'c', 'dynamic'}), 'c': (5, {'c'}, {'head'})}
    REASONS = {
        'inner.bias': 'NativeLayerNormBackward0 in inner: it meets a tensor that has positions '
        'there, not channels',
    }
    PINNED = frozenset({'head', 'a.weight', 'inner.bias'})

    def __init__(self):
        super().__init__()
        self.width, self.inside, self.numbers = 8, 6, 8 * 6
        self.a, self.dynamic = conv(3, 8), nn.Linear(8, 2 * 8 * 6)
        self.inner, self.after = nn.LayerNorm(6), nn.LayerNorm(8)
        self.c, self.head = nn.Linear(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.a(x)).flatten(2).transpose(1, 2)
        made = self.dynamic(x.mean(1))
        first = made[:, : self.numbers].view(-1, self.width, self.inside)
        second = made[:, -self.numbers :].view(-1, self.inside, self.width)
        x = F.relu(self.inner(torch.bmm(x, first)))
        return self.head(F.relu(self.c(F.relu(self.after(torch.bmm(x, second))))))


class FixedFilters(Toy):
    """Wavelets and edges: constant filters, repeated for as many channels as there are."""

    GROUPS = {'a': (8, {'a'}, {'', 'b'}), 'b': (6, {'b'}, {'', 'c'}), 'c': (5, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(32, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
        pairs = [torch.outer(one, other) for one in (low, high) for other in (low, high)]
        haar = torch.stack(pairs).unsqueeze(1).repeat(x.shape[1], 1, 1, 1).to(x)
        x = F.relu(self.b(F.conv2d(x, haar, stride=2, groups=x.shape[1])))
        edge = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])[None, None].to(x)
        x = F.conv2d(x, edge.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1])
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).transpose(-1, -2)


class Triangles(Toy):
    """A symmetric weight, and one that is skew; the bias of the latter is never read."""

    GROUPS = {'a': (8, {'a', 'b'}, {'b', 'head'})}
    PICKLES = False
    INPUT = (4, 3)
    PINNED = frozenset({'head', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(3, 8), *(nn.Linear(8, n) for n in (8, 8, 4))
        nn.utils.parametrize.register_parametrization(self.b, 'weight', Symmetric())

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        upper = self.c.weight.triu(1)
        return self.head(F.relu(F.linear(x, upper - upper.t())))


class TimesAnAttribute(Toy):
    """A generator that knows its width as a multiple of a number that it stores."""

    GROUPS = {'a': (16, {'a', 'norm'}, {'b'}), 'b': (8, {'b'}, {'head'})}
    INPUT = (2, 3)
    PINNED = frozenset({'head', 'a.weight'})

    def __init__(self, width=4):
        super().__init__()
        self.width = width
        self.a, self.norm = nn.Linear(3, width * 4 * 16), nn.BatchNorm2d(width * 4)
        self.b, self.head = nn.ConvTranspose2d(width * 4, width * 2, 4, 2, 1), conv(width * 2, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x).view(-1, self.width * 4, 4, 4)))
        return self.head(F.relu(self.b(x)))


class CostVolume(Toy):
    """Features are written side by side, at one place of a dim that they do not have."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'c'}), 'c': (5, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 6)
        self.c, self.head = nn.Conv3d(12, 5, 3, padding=1), nn.Conv3d(5, 2, 1)

    def forward(self, x):
        x = self.b(F.relu(self.a(x)))
        n, c, h, w = x.shape
        cost = x.new_zeros(n, 2 * c, 3, h, w)
        for i in range(3):
            cost[:, :c, i, :, i:] = x[..., i:]
            cost[:, c:, i, :, i:] = x[..., : w - i]
        return self.head(F.relu(self.c(cost)))


class ComparedFeatures(Toy):
    """Features of two branches are compared, which gives outputs besides."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b', 'd'}, {'head'}), 'c': (7, {'c'}, {'d'})}
    PINNED = frozenset({'head', 'a.weight', 'c.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 6), conv(3, 7), conv(7, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        y, z = self.b(F.relu(self.a(x))), self.d(F.relu(self.c(x)))
        scores = self.head(F.relu(y).mean((2, 3)))
        losses = F.mse_loss(y, z), F.l1_loss(y, z), F.smooth_l1_loss(y, z, reduction='sum')
        return scores, *losses


class MeanByNumberOfElements(ComparedFeatures):
    """The same by a sum over all elements, and a view by how many there are."""

    def forward(self, x):
        y, z = self.b(F.relu(self.a(x))), self.d(F.relu(self.c(x)))
        scores = self.head(F.relu(y).mean((2, 3)))
        apart = (y - z).abs()
        rows = apart.view(len(x), apart.numel() // len(x))
        return scores, apart.sum() / apart.numel(), rows.sum() / torch.numel(rows)


@torch.jit.script
def mish(x):
    return x * torch.tanh(F.softplus(x))


class Scripted(Toy):
    """A function of ``torch.jit.script`` that has run, and is one node of the graph since then."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        for _ in range(3):
            mish(torch.randn(2, dtype=torch.float64, requires_grad=True)).sum().backward()

    def forward(self, x):
        return self.head(mish(self.b(mish(self.a(x)))).mean((2, 3)))


class WidthInATensor(Toy):
    """A scale that is computed in torch, of a width in a tensor of its own."""

    GROUPS = {'a': (8, {'a'}, {'b', 'c'}), 'b': (6, {'b', 'c'}, set()), 'd': (5, {'d'}, {'head'})}
    INPUT = (2, 7, 3)
    PINNED = frozenset({'head', 'a.weight', 'd.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(8, 6)
        self.d, self.head = nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        b, c = self.b(x), self.c(x)
        width = b.shape[-1]
        return self.head(F.relu(self.d(b @ c.transpose(1, 2) / torch.tensor(width).to(b).sqrt())))


TOYS = toys_of(globals())
