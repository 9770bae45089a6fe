"""Toy networks whose weights go through functions, and their expected groups."""

import warnings

import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from toy_networks import Toy, conv, toys_of


class FunctionToy(Toy):
    """Two convolutions and a linear layer; ``wrap`` puts a function before their weights."""

    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'fc'}), 'fc': (5, {'fc'}, {'head'})}

    def __init__(self, wrap):
        super().__init__()
        self.a, self.norm, self.b = wrap(conv(3, 8)), nn.BatchNorm2d(8), wrap(conv(8, 6))
        self.fc, self.head = wrap(nn.Linear(6, 5)), nn.Linear(5, 4)

    def forward(self, x):
        x = self.b(F.relu(self.norm(self.a(x))))
        return self.head(F.relu(self.fc(x.mean((2, 3)))))


def look(module, given, gradients):
    """A hook on a backward pass, as tools that show what a network sees have them."""


class LookedAt(FunctionToy):
    """Hooks on the backward pass of some layers."""

    PINNED = frozenset({'head', 'a.weight'})

    def __init__(self):
        super().__init__(lambda layer: layer)
        for layer in (self.norm, self.b, self.fc):
            layer.register_full_backward_hook(look)


def old_weight_norm(layer, dim=0):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # torch's own word about it
        return weight_norm(layer, dim=dim)


class OldWeightNorm(FunctionToy):
    """A hook that computes the weight before each forward."""

    PINNED = frozenset({'head', 'a.weight_v'})

    def __init__(self):
        super().__init__(old_weight_norm)


class WeightNormOfAll(FunctionToy):
    """One length for the whole weight."""

    PINNED = OldWeightNorm.PINNED

    def __init__(self):
        super().__init__(lambda layer: old_weight_norm(layer, None))


class NewWeightNorm(FunctionToy):
    """A parametrisation that computes the weight when it is read."""

    PINNED = frozenset({'head', 'a.parametrizations.weight.original1'})
    PICKLES = False

    def __init__(self):
        super().__init__(parametrizations.weight_norm)


class WeightNormOfInputs(FunctionToy):
    """A length for every input instead of every output."""

    PINNED = frozenset({'head', 'a.parametrizations.weight.original0'})
    PICKLES = False

    def __init__(self):
        super().__init__(lambda layer: parametrizations.weight_norm(layer, dim=1))


class OldSpectralNorm(FunctionToy):
    """The norm of a subnet is that of its part, along its part of the singular vectors."""

    PINNED = frozenset({'head', 'a.weight_v'})

    def __init__(self):
        super().__init__(spectral_norm)


class NewSpectralNorm(FunctionToy):
    """The same as a parametrisation."""

    PINNED = frozenset({'head', 'a.parametrizations.weight.0._v'})
    PICKLES = False

    def __init__(self):
        super().__init__(parametrizations.spectral_norm)


class SpectralNormOfTransposed(Toy):
    """Over the second dim of a transposed convolution's weight, and of a depthwise one."""

    GROUPS = {
        'a': (8, {'a', 'deep'}, {'deep', 'up'}),
        'up': (6, {'up'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight_v'})
    PICKLES = False

    def __init__(self):
        super().__init__()
        self.a = spectral_norm(conv(3, 8))
        self.deep = parametrizations.spectral_norm(conv(8, 8, groups=8))
        self.up = spectral_norm(nn.ConvTranspose2d(8, 6, 2, stride=2))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.relu(self.up(F.relu(self.deep(self.a(x))))).mean((2, 3)))


class MaskedByTorch(Toy):
    """Masks of torch's own pruning, on weights of all kinds, on a bias and on a norm's scale."""

    GROUPS = {
        'a': (8, {'a', 'norm'}, {'grouped'}),
        'grouped': (12, {'grouped', 'deep'}, {'deep', 'head'}),
    }
    PINNED = frozenset({'head', 'a.weight_orig'})

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.grouped = conv(3, 8), nn.BatchNorm2d(8), conv(8, 12, groups=2)
        self.deep, self.head = conv(12, 12, groups=12), nn.Linear(12, 4)
        for layer in (self.a, self.norm, self.grouped, self.deep, self.head):
            prune.l1_unstructured(layer, 'weight', 0.3)
        prune.random_unstructured(self.a, 'bias', 0.5)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.head(F.relu(self.deep(self.grouped(x))).mean((2, 3)))


class WeightNormOfGroups(Toy):
    """Grouped and depthwise convolutions whose attributes follow a weight that is computed."""

    GROUPS = {
        'a': (8, {'a'}, {'grouped'}),
        'grouped': (12, {'grouped', 'deep'}, {'deep', 'head'}),
    }
    PICKLES = False

    def __init__(self):
        super().__init__()
        self.a, self.grouped = conv(3, 8), old_weight_norm(conv(8, 12, groups=2))
        self.deep = parametrizations.weight_norm(conv(12, 12, groups=12))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(F.relu(self.deep(self.grouped(self.a(x)))).mean((2, 3)))


class StandardisedToy(Toy):
    """Two convolutions whose weights are standardised over their inputs."""

    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self, first, second, norm):
        super().__init__()
        self.a, self.norm, self.b, self.head = first, norm, second, nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.a(x)))).mean((2, 3)))


class StandardisedWeights(StandardisedToy):
    """Weight standardisation (Qiao et al. 2019, section 3), of mmcv."""

    def __init__(self):
        config = dict(type='ConvWS')
        layers = [build_conv_layer(config, 3, 8, 3), build_conv_layer(config, 8, 6, 3)]
        super().__init__(*layers, nn.GroupNorm(2, 8))


class StandardisedGroups(StandardisedToy):
    """Over the inputs of each group, of which equally many stay."""

    def __init__(self):
        config = dict(type='ConvWS')
        layers = [build_conv_layer(config, 3, 8, 3), build_conv_layer(config, 8, 6, 3, groups=2)]
        super().__init__(*layers, nn.BatchNorm2d(8))


class ScaledWeight(nn.Conv2d):
    """Standardised by variance, with a gain per output (NFNets, Brock et al. 2021)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        var = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = self.gain * (self.weight - mean) * torch.rsqrt(var + 1e-4)
        return self._conv_forward(x, weight, self.bias)


class ScaledWeights(StandardisedToy):
    """Written out, without a view."""

    def __init__(self):
        super().__init__(ScaledWeight(3, 8, 3), ScaledWeight(8, 6, 3), nn.BatchNorm2d(8))


class Centred(nn.Module):
    """A parametrisation of one's own: rows with mean 0 and standard deviation 1."""

    def forward(self, weight):
        std, mean = torch.std_mean(weight, dim=1, keepdim=True)
        return (weight - mean) / (std + 1e-3)


class CentredLinear(Toy):
    """Linear layers whose weights are not 0 where their inputs are removed."""

    INPUT = (2, 5, 6)
    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (7, {'b'}, {'head'})}
    PICKLES = False

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 4)
        parametrize.register_parametrization(self.b, 'weight', Centred())
        parametrize.register_parametrization(self.head, 'weight', Centred())

    def forward(self, x):
        return self.head(torch.sigmoid(self.b(torch.sigmoid(self.a(x)))))


class Scales(Toy):
    """One head on three scales, with a norm and a factor of its own for each, as in mmdet."""

    GROUPS = {
        'a': (6, {'a', 'b'}, {'b', 'shared'}),
        'shared': (5, {'shared', 'norms.0', 'norms.1', 'norms.2'}, {'last'}),
    }
    PINNED = frozenset({'last', 'a.weight'})
    REASONS = {'scales': 'UnbindBackward0 in the root module takes channels by their number'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.shared, self.last = conv(3, 6), conv(6, 6), conv(6, 5), conv(5, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(5) for _ in range(3))
        self.scales = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.a(x)
        levels = [x, F.max_pool2d(x, 2)]
        levels.append(F.avg_pool2d(self.b(levels[1]) + levels[1], 2))
        found = []
        for level, norm, scale in zip(levels, self.norms, self.scales, strict=True):
            found.append(self.last(F.relu(norm(self.shared(level)))) * scale)
        return {'scores': found, 'coarse': [found[-1].flatten(2)]}


class User(nn.Module):
    """Convolves with a weight that it is given."""

    def forward(self, x, weight):
        return F.conv2d(x, weight, padding=1)


class ParameterHandedOn(Toy):
    """A parameter that one module owns and another one uses."""

    GROUPS = {'a': (8, {'a'}, {'user'}), 'user': (6, {'user'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.user, self.head = conv(3, 8), User(), nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x):
        return self.head(self.user(self.a(x), self.weight).mean((2, 3)))


class WeightOfASibling(Toy):
    """A layer's weight turned around and used once more, as in an autoencoder."""

    GROUPS = {'a': (8, {'a', 'b'}, {'b', 'head'}), 'b': (6, {'b'}, {'b'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.back, self.head = conv(3, 8), conv(8, 6), User(), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        x = x + self.back(F.relu(self.b(x)), self.b.weight.transpose(0, 1))
        return self.head(x.mean((2, 3)))


class ChosenByMasks(Toy):
    """What is computed by comparing features, in the ways in which code does it."""

    GROUPS = {
        'a': (8, {'a'}, {'b', 'd'}),
        'b': (6, {'b', 'd'}, {'c'}),
        'c': (5, {'c'}, {'e'}),
        'e': (6, {'e'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.d = conv(3, 8), conv(8, 6), conv(8, 6)
        self.c, self.e, self.head = conv(6, 5), conv(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        x = torch.where(x > 0, x, 0.1 * x)
        large, small = self.b(x), self.d(x)
        x = torch.where(large >= small, 1.0, 0.5) * (large != 0) + large * (small > 0).type_as(x)
        x = self.c(x)
        x = x.masked_fill((x < -1) | ~(x > -2), -1) * (x.mean((2, 3)) > 0)[..., None, None]
        x = self.e(x)
        x[x > 1] = 1
        counted = (x > 0.1) & (x.abs() < 0.4)
        return self.head(x.mean((2, 3)) + counted.sum((2, 3)) / 64)


TOYS = toys_of(globals(), FunctionToy, StandardisedToy)
