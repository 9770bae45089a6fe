"""Networks that do more in training, or for their loss, than in eval mode.

Beside each stands what is expected, see ``toy_networks.Toy``; ``ROADS`` are the roads that say
something of channels. The groups are the same whichever road shows them.
"""

import copy

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from mmprune.trace import Road

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TOYS = []


def toy(cls):
    TOYS.append(cls)
    return cls


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Toy(nn.Module):
    """``GROUPS``: of the prunable ones channels, makers and readers; ``KEPT``: share at most."""

    ROADS = ('eval', 'train')
    GROUPS: dict = {}
    PINNED: set = set()
    KEPT = 0.45

    @staticmethod
    def demo_input():
        return IMAGES


@toy
class AuxiliaryHead(Toy):
    """A head that runs in training only, with a norm whose statistics no other road names."""

    GROUPS = {
        'a': (16, {'a'}, {'b', 'aux.0'}),
        'b': (24, {'b'}, {'head'}),
        'aux.0': (12, {'aux.0', 'aux.1'}, {'aux.3'}),
    }
    PINNED = {'head', 'aux.3', 'a.weight'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(16, 24), nn.Linear(24, 5)
        self.aux = nn.Sequential(conv(16, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 5))

    def forward(self, x):
        x = self.a(x).relu()
        out = self.head(self.b(x).relu().mean((2, 3)))
        return (out, self.aux(x).mean((2, 3))) if self.training else out


@toy
class GoogLeNetLike(Toy):
    """Two auxiliary heads with dropout, the second flattens what it reads."""

    GROUPS = {
        'stem.0': (12, {'stem.0', 'stem.1'}, {'left', 'right', 'aux1.2'}),
        'left': (8, {'left'}, {'last', 'aux2.1'}),
        'right': (10, {'right'}, {'last', 'aux2.1'}),
        'last': (14, {'last'}, {'head'}),
        'aux2.1': (9, {'aux2.1'}, {'aux2.4'}),
    }
    PINNED = {'head', 'aux1.2', 'aux2.4', 'stem.0.weight'}

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.left, self.right, self.last = conv(12, 8), conv(12, 10, 1), conv(18, 14)
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(14, 5))
        self.head = nn.Linear(14, 5)
        self.aux1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
        self.aux2 = nn.Sequential(
            nn.Flatten(), nn.Linear(18 * 64, 9), nn.ReLU(), nn.Dropout(0.7), nn.Linear(9, 5)
        )

    def forward(self, x):
        x = self.stem(x)
        first = self.aux1(x) if self.training else None
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        second = self.aux2(x) if self.training else None
        x = F.dropout(self.last(x).relu().mean((2, 3)), 0.4, self.training)
        return (self.head(x), first, second) if self.training else self.head(x)


class Segmenter(nn.Module):
    """Mode 'loss' is another path than mode 'tensor'."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck = conv(3, 16), nn.Sequential(conv(16, 20), nn.BatchNorm2d(20))
        self.head = conv(20, 4, 1)
        self.auxiliary_head = nn.Sequential(conv(16, 10), nn.ReLU(), conv(10, 4, 1))

    def forward(self, inputs, mode='tensor'):
        x = self.backbone(inputs).relu()
        out = self.head(self.neck(x).relu())
        if mode == 'tensor':
            return out
        target = torch.arange(2 * 64).reshape(2, 8, 8) % 4
        other = self.auxiliary_head(x)
        return dict(
            loss=F.cross_entropy(out, target),
            aux=F.cross_entropy(other, target) + F.binary_cross_entropy_with_logits(
                other, F.one_hot(target, 4).movedim(-1, 1).to(other)
            ),
        )  # fmt: skip


LOSS_HEAD_GROUPS = {
    'backbone': (16, {'backbone'}, {'neck.0', 'auxiliary_head.0'}),
    'neck.0': (20, {'neck.0', 'neck.1'}, {'head'}),
    'auxiliary_head.0': (10, {'auxiliary_head.0'}, {'auxiliary_head.2'}),
}


@toy
class LossHead(Toy, Segmenter):
    """A head that runs in mode 'loss' only: the user says so by a list of roads."""

    ROADS = ('eval', 'loss')
    GROUPS = LOSS_HEAD_GROUPS
    PINNED = {'head', 'auxiliary_head.2', 'backbone.weight'}

    @staticmethod
    def demo_input():
        loss = Road('loss', dict(inputs=IMAGES, mode='loss'), training=True)
        return [Road('eval', IMAGES), Road('train', IMAGES, training=True), loss]


@toy
class LossHeadByCallable(LossHead):
    """The same by a callable, which is walked in both modes."""

    ROADS = ('eval', 'eval 2')

    @staticmethod
    def demo_input():
        return [IMAGES, lambda model: model(IMAGES, mode='loss')]


@toy
class LossHeadByMode(LossHead):
    """The same, found by itself: its loss needs the input alone."""

    @staticmethod
    def demo_input():
        return IMAGES


@toy
class LossHeadOfMmengine(Toy, BaseModel):
    """The same of an mmengine model, whose loss is found by itself."""

    ROADS = ('eval', 'loss')
    GROUPS = LOSS_HEAD_GROUPS
    PINNED = {'head', 'auxiliary_head.2', 'backbone.weight'}

    def __init__(self):
        BaseModel.__init__(self)
        plain = Segmenter()
        self.backbone, self.neck = plain.backbone, plain.neck
        self.head, self.auxiliary_head = plain.head, plain.auxiliary_head

    forward = Segmenter.forward


@toy
class WeightedLoss(Toy):
    """A head for a loss in training, whose weights comparisons have made: they have no gradient."""

    GROUPS = {'a': (16, {'a'}, {'b'}), 'b': (24, {'b'}, {'head', 'edges'})}
    PINNED = {'head', 'a.weight'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.edges = conv(3, 16), conv(16, 24), conv(24, 2), conv(24, 1)

    def forward(self, x):
        features = self.b(self.a(x).relu()).relu()
        if not self.training:
            return self.head(features)
        found = self.edges(features)
        edges = (x.mean(1, keepdim=True) > 0).to(found)
        weight = torch.zeros_like(found)
        weight[edges == 1], weight[edges == 0] = 3.0, 1.0
        loss = F.binary_cross_entropy_with_logits(found, edges, weight)
        return self.head(features), loss


@toy
class MomentumEncoder(Toy):
    """A copy of the encoder that follows it (BYOL): both have the same channels."""

    GROUPS = {
        'online.0': (
            12,
            {'online.0', 'online.1', 'target.0', 'target.1'},
            {'online.3', 'target.3'},
        ),
        'predictor.0': (20, {'predictor.0'}, {'predictor.2'}),
    }
    PINNED = {'online.3', 'online.0.weight'}  # with what the loss compares
    KEPT = 0.6
    WRITES = 'chained'

    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(conv(3, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Sequential(conv(8, 20, 1), nn.ReLU(), conv(20, 8, 1))

    @torch.no_grad()
    def follow(self):
        online, target = list(self.online.parameters()), list(self.target.parameters())
        if self.WRITES == 'foreach':
            torch._foreach_lerp_(target, online, 0.01)
            return
        for source, mine in zip(online, target, strict=True):
            if self.WRITES == 'chained':
                mine.data.mul_(0.99).add_(source.data, alpha=0.01)
            elif self.WRITES == 'set':
                mine.data = mine.data * 0.99 + source.data * 0.01
            else:
                mine.copy_(mine * 0.99 + source * 0.01)

    def forward(self, x):
        features = self.online(x)
        if not self.training:
            return features
        self.follow()
        with torch.no_grad():
            wanted = self.target(x.flip(0))
        return F.mse_loss(self.predictor(features), wanted) + features.square().mean()


@toy
class MomentumEncoderSet(MomentumEncoder):
    """The same by another write."""

    WRITES = 'set'


@toy
class MomentumEncoderCopied(MomentumEncoder):
    """The same by another write."""

    WRITES = 'copy'


@toy
class MomentumEncoderForeach(MomentumEncoder):
    """The same by another write."""

    WRITES = 'foreach'


@toy
class QueueOfKeys(Toy):
    """Momentum contrast: what the average gives is written to a buffer, and read later."""

    GROUPS = {
        'online.0': (
            12,
            {'online.0', 'online.1', 'target.0', 'target.1'},
            {'online.3', 'target.3'},
        ),
    }
    PINNED = {'online.3', 'online.0.weight'}
    KEPT = 0.6

    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(conv(3, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.register_buffer('queue', torch.randn(8, 16))
        self.register_buffer('place', torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        query = F.normalize(self.online(x).mean((2, 3)), dim=1)
        if not self.training:
            return query
        with torch.no_grad():
            for source, mine in zip(
                self.online.parameters(), self.target.parameters(), strict=True
            ):
                mine.data = mine.data * 0.99 + source.data * 0.01
            key = F.normalize(self.target(x.flip(0)).mean((2, 3)), dim=1)
        near = (query * key).sum(1, keepdim=True)
        logits = torch.cat([near, query @ self.queue.clone().detach()], 1)
        start = int(self.place)
        self.queue[:, start : start + len(key)] = key.T
        self.place[0] = (start + len(key)) % self.queue.size(1)
        return logits


@toy
class AveragedWeights(Toy):
    """An average of the weights that no road runs, only training writes to."""

    GROUPS = {'a': (16, {'a'}, {'b'})}
    PINNED = {'b', 'a.weight'}
    KEPT = 0.55

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 4)
        self.average = nn.ModuleDict(dict(a=conv(3, 16), b=conv(16, 4))).requires_grad_(False)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                for name, average in self.average.items():
                    average.weight.lerp_(getattr(self, name).weight, 0.1)
                    average.bias.lerp_(getattr(self, name).bias, 0.1)
        return self.b(self.a(x).relu())


@toy
class OneToMany(Toy):
    """A second head on the same features in training (H-DETR, YOLOv10)."""

    GROUPS = {
        'a': (16, {'a'}, {'b'}),
        'b': (24, {'b'}, {'one.0', 'many.0'}),
        'one.0': (10, {'one.0'}, {'one.2'}),
        'many.0': (10, {'many.0'}, {'many.2'}),
    }
    PINNED = {'one.2', 'many.2', 'a.weight'}

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 24)
        self.one = nn.Sequential(conv(24, 10), nn.ReLU(), conv(10, 6, 1))
        self.many = copy.deepcopy(self.one)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        return dict(one=self.one(x), many=self.many(x)) if self.training else self.one(x).sigmoid()


@toy
class FeaturesInTraining(Toy):
    """Features that training returns stay."""

    GROUPS = {'a': (16, {'a'}, {'b'})}
    PINNED = {'b', 'head', 'a.weight'}
    KEPT = 0.6

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        out = self.head(x.mean((2, 3)))
        return (out, x) if self.training else out


class DropPath(nn.Module):
    """Stochastic depth, as networks write it."""

    def forward(self, x):
        if not self.training:
            return x
        kept = torch.rand((len(x),) + (1,) * (x.dim() - 1), dtype=x.dtype) + 0.8
        return x.div(0.8) * kept.floor_()


@toy
class Chance(Toy):
    """Dropout of every kind, stochastic depth: the same channels as without."""

    ROADS = ('eval',)
    GROUPS = {
        'stem': (12, {'stem', 'block.2'}, {'block.0', 'tokens'}),
        'block.0': (16, {'block.0'}, {'block.2'}),
        'tokens': (14, {'tokens'}, {'rnn'}),
        'rnn': (20, {'rnn'}, {'rnn', 'head'}),
    }
    PINNED = {'head', 'stem.weight'}

    def __init__(self):
        super().__init__()
        self.stem, self.path = conv(3, 12), DropPath()
        self.block = nn.Sequential(conv(12, 16), nn.Dropout2d(0.3), conv(16, 12), nn.RReLU())
        self.tokens = nn.Linear(12, 14)
        self.rnn = nn.GRU(14, 10, 2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.path(self.block(x))
        x = F.dropout(self.tokens(x.flatten(2).transpose(1, 2)), 0.2, self.training).relu()
        return self.head(self.rnn(x)[0].mean(1))


@toy
class NormOfOnePixel(Toy):
    """A norm behind the pooling of one image has no statistics: the batch is doubled."""

    ROADS = ('eval', 'train')
    GROUPS = {
        'a': (16, {'a'}, {'b'}),
        'b': (24, {'b', 'norm'}, {'head', 'aux'}),
    }
    PINNED = {'head', 'aux', 'a.weight'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 16), nn.Linear(16, 24), nn.BatchNorm1d(24)
        self.head, self.aux = nn.Linear(24, 5), nn.Linear(24, 7)

    def forward(self, x):
        x = self.norm(self.b(self.a(x).relu().mean((2, 3)))).relu()
        return (self.head(x), self.aux(x)) if self.training else self.head(x)

    @staticmethod
    def demo_input():
        return IMAGES[:1]


@toy
class OtherWeightInTraining(Toy):
    """A mode that is not asked for in the forward, but set in ``train``: branches are merged."""

    GROUPS = {'a': (16, {'a'}, {'b', 'c'}), 'b': (12, {'b', 'c'}, {'head'})}
    PINNED = {'head', 'a.weight'}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 16), conv(16, 12), conv(16, 12, 1), conv(12, 4)
        self.both = True

    def train(self, mode=True):
        self.both = mode
        return super().train(mode)

    def forward(self, x):
        x = self.a(x).relu()
        x = self.b(x) + self.c(x) if self.both else self.b(x)
        return self.head(x.relu())
