"""Toy networks with every kind of normalisation, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv, toys_of


class NormToy(Toy):
    """Two convolutions with something between them that normalises 8 channels."""

    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self, norm=None):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        if norm is not None:
            self.norm = norm

    def normalise(self, x):
        return self.norm(x)

    def forward(self, x):
        return self.head(self.b(F.relu(self.normalise(self.a(x)))).mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of images, by two permutations, as in mmcls and ConvNeXt."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()


class LayerNormOfImages(NormToy):
    """Layer normalisation of images by permutations."""

    def __init__(self):
        super().__init__(LayerNorm2d(8))


class LayerNormByPermute(NormToy):
    """A plain LayerNorm between permutations that the network makes."""

    def __init__(self):
        super().__init__(nn.LayerNorm(8))

    def normalise(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNormWithoutWeights(LayerNormByPermute):
    """``elementwise_affine=False``: only the shape is stored, and mended."""

    def __init__(self):
        NormToy.__init__(self, nn.LayerNorm(8, elementwise_affine=False))


POSITIONS = {
    'norm.bias#0': 'has positions there, not channels',
    'norm.bias#1': 'has positions there, not channels',
}


class LayerNormOfSeveralDims(NormToy):
    """Channels and positions normalised together, with a weight for each."""

    REASONS = POSITIONS

    def __init__(self):
        super().__init__(nn.LayerNorm([8, 8, 8]))


class LayerNormOfSeveralDimsWithoutWeights(NormToy):
    """The same with nothing but a shape."""

    def __init__(self):
        super().__init__(nn.LayerNorm((8, 8, 8), elementwise_affine=False))


class LayerNormOfTokens(Toy):
    """Of tokens, and of all channels of all tokens together."""

    INPUT = (2, 5, 6)
    GROUPS = {'a': (8, {'a', 'first', 'second'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    REASONS = {'second.bias': 'is an input of the network'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 4)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm([5, 8])

    def forward(self, x):
        return self.head(F.gelu(self.b(F.gelu(self.second(F.gelu(self.first(self.a(x))))))))


class LayerNormOfOtherDims(NormToy):
    """Over space only: channels are not mixed."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    REASONS = POSITIONS

    def __init__(self):
        super().__init__(nn.LayerNorm([8, 8]))


class Handwritten(nn.Module):
    """Layer normalisation over dim 1, by mean and mean of squares."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class LayerNormByHand(NormToy):
    """Written out with means over the channels."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__(Handwritten(8))


class LayerNormByVariance(NormToy):
    """Written out with torch's variance and standard deviation over the channels."""

    GROUPS = LayerNormByHand.GROUPS

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def normalise(self, x):
        x = (x - x.mean(1, True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-6)
        x = F.relu(x * self.scale) + 0.1
        return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-6)


class FunctionalGroupNorm(nn.Module):
    """Calls the function."""

    def __init__(self, channels, groups):
        super().__init__()
        self.num_groups = groups
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight)


class GroupNormWithoutWeights(NormToy):
    """Groups of channels without a weight."""

    def __init__(self):
        super().__init__(nn.GroupNorm(2, 8, affine=False))


class GroupNormByGroups(NormToy):
    """Whole groups go, if the pruner is told so: four decisions about two channels each."""

    GROUPS = {'a': (4, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    OPTIONS = {'group_norm': 'groups'}

    def __init__(self):
        super().__init__(nn.GroupNorm(4, 8))


class GroupNormByHand(NormToy):
    """The function, with a number of groups that the module stores."""

    GROUPS = {'a': (4, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    OPTIONS = {'group_norm': 'groups'}

    def __init__(self):
        super().__init__(FunctionalGroupNorm(8, 4))


class GroupNormOfAll(NormToy):
    """One group of all channels."""

    def __init__(self):
        super().__init__(nn.GroupNorm(1, 8))


class GroupNormOfEach(NormToy):
    """As many groups as channels: a channel that goes takes its group along."""

    def __init__(self):
        super().__init__(nn.GroupNorm(8, 8))


class GroupNormOfTokens(Toy):
    """Over the positions of a sequence."""

    INPUT = (2, 3, 10)
    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv1d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.a(x)))).mean(2))


class InstanceNorm(NormToy):
    """Without weights, torch's default."""

    def __init__(self):
        super().__init__(nn.InstanceNorm2d(8))


class InstanceNormWithWeights(NormToy):
    """With a weight and a bias per channel."""

    def __init__(self):
        super().__init__(nn.InstanceNorm2d(8, affine=True))


class InstanceNormWithStatistics(NormToy):
    """With running statistics, which eval mode uses."""

    def __init__(self):
        super().__init__(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))


class InstanceNormWithStatisticsOnly(NormToy):
    """With running statistics and no weights."""

    def __init__(self):
        super().__init__(nn.InstanceNorm2d(8, track_running_stats=True))


class InstanceNormOfVolumes(Toy):
    """Over the positions of a volume."""

    INPUT = (2, 3, 4, 4, 4)
    GROUPS = NormToy.GROUPS

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv3d(3, 8, 3), nn.Conv3d(8, 6, 1), nn.Linear(6, 4)
        self.norm = nn.InstanceNorm3d(8, affine=True)

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.a(x)))).mean((2, 3, 4)))


class BatchNormOfBatches(NormToy):
    """Batch statistics in eval mode too, since none are kept, and no weights."""

    def __init__(self):
        super().__init__(nn.BatchNorm2d(8, affine=False, track_running_stats=False))


class InstanceNormOfTokens(Toy):
    """Over the positions of a sequence."""

    INPUT = (2, 3, 10)
    GROUPS = {
        'a': (8, {'a', 'first'}, {'b'}),
        'b': (6, {'b', 'second'}, {'c'}),
        'c': (5, {'c', 'third'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 6, 1), nn.Conv1d(6, 5, 3)
        self.first, self.second = nn.InstanceNorm1d(8), nn.InstanceNorm1d(6, affine=True)
        self.third = nn.InstanceNorm1d(5, affine=True, track_running_stats=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.second(self.b(F.relu(self.first(self.a(x))))))
        return self.head(F.relu(self.third(self.c(x))).mean(2))


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt V2 (Woo et al. 2023, section 3.2), channels last."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        spread = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        share = spread / (spread.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


class GlobalResponse(NormToy):
    """GRN: the mean over the channels is one over the kept ones."""

    GROUPS = LayerNormByHand.GROUPS

    def __init__(self):
        super().__init__(GlobalResponseNorm(8))

    def normalise(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RootMeanSquare(LayerNormByPermute):
    """torch's own RMSNorm."""

    def __init__(self):
        NormToy.__init__(self, nn.RMSNorm(8))


class RootMeanSquareWithoutWeights(LayerNormByPermute):
    """RMSNorm without a weight."""

    def __init__(self):
        NormToy.__init__(self, nn.RMSNorm(8, eps=1e-6, elementwise_affine=False))


class RootMeanSquareByHand(NormToy):
    """As language models write it."""

    GROUPS = LayerNormByHand.GROUPS

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def normalise(self, x):
        x = x.permute(0, 2, 3, 1)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        return x.permute(0, 3, 1, 2)


class UnitLength(NormToy):
    """Every position's channels scaled to length one (F.normalize), as in SSD's L2Norm."""

    GROUPS = LayerNormByHand.GROUPS

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def normalise(self, x):
        return F.normalize(x, dim=1) * self.scale[None, :, None, None]


class NormsOfOneWidth(Toy):
    """Several statistics and computed weights in one module, of tensors of one shape."""

    GROUPS = {
        'a': (8, {'a'}, set()),
        'c.weight': (8, set(), set()),
        'd.weight': (8, set(), {'d'}),
        'd': (8, {'d'}, {'e'}),
        'e': (8, {'e'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight'})
    INPUT = (2, 5, 6)

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.b, self.c, self.d, self.e = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        x = self.a(x).relu()
        x = x - x.mean(-1, keepdim=True)
        x = self.centred(x, self.b)
        x = self.centred(x.relu(), self.c)
        x = self.d(x / x.norm(dim=-1, keepdim=True)).relu()
        x = self.e(x / x.norm(dim=-1, keepdim=True))
        return self.head((x - x.mean(-1, keepdim=True)).relu().mean(1))

    @staticmethod
    def centred(x, layer):
        return F.linear(x, layer.weight - layer.weight.mean(1, keepdim=True), layer.bias)


class NormOfBlocks(NormToy):
    """Two blocks of four channels lie along the samples of a norm over four, as in RepMLP."""

    GROUPS = {'a': (2, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    REASONS = {'norm.bias': 'it meets a tensor that has positions there, not channels'}

    def __init__(self):
        super().__init__(nn.BatchNorm2d(4))
        self.each = 4

    def normalise(self, x):
        return self.norm(x.reshape(-1, self.each, *x.shape[2:])).reshape(x.shape)


class LocalResponse(NormToy):
    """A window over neighbouring channels: which ones are neighbours is fixed."""

    GROUPS = {'b': (6, {'b'}, {'head'})}
    REASONS = {
        'a': 'AvgPool3DBackward0 in the root module moves a window over the channels',
        'b.weight': 'comes from AvgPool3DBackward0',
    }

    def normalise(self, x):
        return F.local_response_norm(x, 3)


TOYS = toys_of(globals(), NormToy)
