"""Toy networks of layers beyond the 2-D convolution, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy, conv, toys_of


class Conv1d(Toy):
    """Sequences: plain, grouped, depthwise, transposed."""

    INPUT = (2, 3, 10)
    GROUPS = {
        'a': (8, {'a', 'norm', 'deep'}, {'deep', 'b'}),
        'b': (12, {'b'}, {'up'}),
        'up': (8, {'up'}, {'grouped'}),
        'grouped': (6, {'grouped'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)
        self.deep, self.b = nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 12, 1)
        self.up = nn.ConvTranspose1d(12, 8, 2, stride=2)
        self.grouped = nn.ConvTranspose1d(8, 6, 2, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(self.deep(F.relu(self.norm(self.a(x)))))
        return self.head(self.grouped(F.relu(self.up(F.max_pool1d(x, 2)))).mean(2))


class Conv3d(Toy):
    """Volumes: plain, grouped, depthwise, transposed."""

    INPUT = (2, 3, 4, 6, 6)
    GROUPS = {
        'a': (8, {'a', 'norm', 'deep'}, {'deep', 'b'}),
        'b': (12, {'b'}, {'up'}),
        'up': (8, {'up'}, {'grouped'}),
        'grouped': (6, {'grouped'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.deep, self.b = nn.Conv3d(8, 8, 1, groups=8), nn.Conv3d(8, 12, 1)
        self.up = nn.ConvTranspose3d(12, 8, 2, stride=2)
        self.grouped = nn.ConvTranspose3d(8, 6, 1, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(self.deep(F.relu(self.norm(self.a(x)))))
        x = F.interpolate(F.max_pool3d(x, 2), scale_factor=2, mode='trilinear')
        return self.head(self.grouped(F.relu(self.up(F.avg_pool3d(x, 2)))).mean((2, 3, 4)))


class TransposedMultiplier(Toy):
    """A depthwise transposed convolution, and one whose groups have one output each."""

    GROUPS = {
        'a': (6, {'a', 'deep'}, {'deep', 'b'}),
        'b': (4, {'b', 'joined'}, {'joined', 'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.deep = conv(3, 6), nn.ConvTranspose2d(6, 12, 2, groups=6)
        self.b, self.joined = conv(12, 8), nn.ConvTranspose2d(8, 4, 2, groups=4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.joined(self.b(self.deep(self.a(x)))).mean((2, 3)))


class OneOutputPerGroup(Toy):
    """A grouped convolution with two inputs and one output in each group: whole groups go."""

    GROUPS = {'a': (4, {'a', 'joined'}, {'joined', 'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.joined, self.head = conv(3, 8), conv(8, 4, groups=4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(F.relu(self.joined(self.a(x))).mean((2, 3)))


class Words(Toy):
    """An embedding: its width is pruned, its vocabulary is not."""

    GROUPS = {
        'words': (8, {'words', 'norm', 'back'}, {'fc', 'head'}),
        'fc': (10, {'fc'}, {'back'}),
    }
    INPUT = None
    PINNED = frozenset({'head'})
    REASONS = {
        'words.weight': 'its rows are looked up by number',
        'places': 'meets a tensor that is looked up',
    }

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.places = nn.Parameter(torch.randn(5, 8))
        self.norm, self.fc, self.back = nn.LayerNorm(8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 4)

    @staticmethod
    def data():
        return torch.arange(10).reshape(2, 5)

    def forward(self, x):
        x = self.words(x) + self.places
        return self.head((x + self.back(F.relu(self.fc(self.norm(x))))).mean(1))


class WordsOfBoundedLength(Toy):
    """``max_norm`` writes to the weight in the forward pass, which no subnet could share."""

    INPUT = None
    GROUPS = {'fc': (10, {'fc'}, {'head'})}
    PINNED = frozenset({'head'})
    REASONS = {
        'words.weight#0': 'goes through EmbeddingWithMaxNormBackward, which mmprune does not know',
        'words.weight#1': 'goes through EmbeddingWithMaxNormBackward, which mmprune does not know',
        'fc.weight': 'comes from EmbeddingWithMaxNormBackward',
    }

    def __init__(self):
        super().__init__()
        self.words, self.fc = nn.Embedding(11, 8, max_norm=1.0), nn.Linear(8, 10)
        self.head = nn.Linear(10, 4)

    data = Words.data

    def forward(self, x):
        return self.head(F.relu(self.fc(self.words(x))))


class KernelsOverWords(Toy):
    """The features of words are the width of an image, over all of which kernels lie."""

    INPUT = (2, 9)
    GROUPS = {
        'words': (12, {'words'}, {'pairs', 'threes'}),
        'pairs': (8, {'pairs'}, {'head'}),
        'threes': (6, {'threes'}, {'head'}),
    }
    PINNED = frozenset({'head', 'words.weight'})

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 12), nn.Linear(14, 4)
        self.pairs, self.threes = nn.Conv2d(1, 8, (2, 12)), nn.Conv2d(1, 6, (3, 12), stride=(1, 5))

    def forward(self, x):
        x = self.words((x.abs() * 7).long() % 20)[:, None]
        parts = [F.relu(part(x))[..., 0] for part in (self.pairs, self.threes)]
        return self.head(torch.cat([F.max_pool1d(p, p.size(2))[..., 0] for p in parts], 1))


class TokensAsChannels(Toy):
    """Convolutions over tokens, at each of whose channels the same is done (gMLP)."""

    GROUPS = {
        'a': (8, {'a', 'back'}, {'into', 'head'}),
        'into': (6, {'into', 'norm'}, {'back'}),
    }
    PINNED = frozenset({'head', 'over', 'over.weight', 'a.weight'})
    INPUT = (2, 5, 6)

    def __init__(self):
        super().__init__()
        self.a, self.into, self.norm = nn.Linear(6, 8), nn.Linear(8, 12), nn.LayerNorm(6)
        self.over, self.back, self.head = nn.Conv1d(5, 5, 1), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        kept, gate = F.gelu(self.into(x)).chunk(2, dim=-1)
        return self.head((x + self.back(kept * self.over(self.norm(gate)))).mean(1))


class PartsOfWeights(Toy):
    """Only a part of a layer runs, as long as the module says (slimmable layers)."""

    GROUPS = {
        'a': (8, {'a'}, {'head'}),
        'c.weight#0': (12, set(), set()),
        **{unused: (8, set(), set()) for unused in ('c.weight#1', 'b.weight', 'b.bias')},
    }
    PINNED = frozenset({'head', 'a.weight'})
    INPUT = (2, 6)

    def __init__(self):
        super().__init__()
        self.n = 12
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 20), nn.Linear(20, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x, n = self.a(x), self.n
        y = F.linear(x, self.b.weight[:n], self.b.bias[:n]).relu()
        return self.head(x + F.linear(y, self.c.weight[:, :n], self.c.bias))


class FourierLayer(Toy):
    """Weights of the lowest frequencies, written into zeros as wide as the module says."""

    GROUPS = {'a': (8, {'a'}, {'c'}), 'c': (6, {'c'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'b#0', 'b#1'})

    def __init__(self):
        super().__init__()
        self.width, self.a, self.c, self.head = 6, conv(3, 8), conv(8, 6, 1), nn.Linear(6, 4)
        self.b = nn.Parameter(torch.randn(8, 6, 3, 3, 2) / 5)

    def forward(self, x):
        x = self.a(x)
        found = torch.fft.rfft2(x)
        out = torch.zeros(len(x), self.width, *found.shape[2:], dtype=found.dtype)
        weight = torch.view_as_complex(self.b)
        out[:, :, :3, :3] = torch.einsum('bixy,ioxy->boxy', found[:, :, :3, :3], weight)
        x = F.gelu(torch.fft.irfft2(out, s=x.shape[2:]) + self.c(x))
        return self.head(x.mean((2, 3)))


class Turned(Toy):
    """Filters in all four turns (group convolutions)."""

    GROUPS = {'norm': (8, {'norm'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a'})

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 3, 3, 3) / 5), conv(32, 6)
        self.norm, self.head = nn.BatchNorm3d(8), nn.Linear(6, 4)

    def forward(self, x):
        turns = torch.stack([torch.rot90(self.a, turn, (2, 3)) for turn in range(4)], dim=1)
        x = F.conv2d(x, turns.flatten(0, 1), padding=1)
        x = self.norm(x.view(len(x), -1, 4, *x.shape[2:]))
        return self.head(F.relu(self.b(F.relu(x).flatten(1, 2))).mean((2, 3)))


class TiedEmbedding(Toy):
    """One weight looks words up and scores them, as in language models."""

    GROUPS = {
        'words': (8, {'words', 'back'}, {'fc', 'score'}),
        'fc': (10, {'fc'}, {'back'}),
    }
    INPUT = None
    PINNED = frozenset()
    REASONS = {'score': 'its rows are looked up by number'}

    def __init__(self):
        super().__init__()
        self.words, self.fc, self.back = nn.Embedding(11, 8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.score = nn.Linear(8, 11, bias=False)
        self.score.weight = self.words.weight

    data = Words.data

    def forward(self, x):
        x = self.words(x)
        return self.score(x + self.back(F.relu(self.fc(x))))


class Prelu(Toy):
    """One slope for all channels, and one for each."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.one, self.many, self.flat = nn.PReLU(), nn.PReLU(8), nn.PReLU(6)

    def forward(self, x):
        x = self.b(self.one(self.many(self.a(x))))
        return self.head(self.flat(x.mean((2, 3))))


class Bilinear(Toy):
    """Both inputs and the output of a bilinear layer."""

    INPUT = (2, 6)
    GROUPS = {
        'a': (8, {'a'}, {'pair'}),
        'b': (5, {'b'}, {'pair'}),
        'pair': (7, {'pair'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'b.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 5)
        self.pair, self.head = nn.Bilinear(8, 5, 7), nn.Linear(7, 4)

    def forward(self, x):
        return self.head(F.relu(self.pair(F.relu(self.a(x)), self.b(x))))


class PixelUnshuffle(Toy):
    """Every channel becomes four, which its consumer reads."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(32, 6), nn.Linear(6, 4)
        self.down = nn.PixelUnshuffle(2)

    def forward(self, x):
        return self.head(self.b(F.relu(self.down(self.a(x)))).mean((2, 3)))


class UnfoldAndFold(Toy):
    """Windows as columns, a linear layer over each, and windows summed back."""

    GROUPS = {
        'a': (6, {'a'}, {'mix'}),
        'mix': (8, {'mix'}, {'b'}),
        'b': (5, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.b = conv(3, 6), nn.Linear(6 * 4, 8 * 4), conv(8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = F.unfold(F.relu(self.a(x)), 2, stride=2)
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.b(F.fold(x, (8, 8), 2, stride=2)).mean((2, 3)))


class TimesAConstantVector(Toy):
    """A gate of a matrix times a constant: its rows are channels, its columns stay."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'gate', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.gate = nn.Parameter(torch.rand(8, 5))

    def forward(self, x):
        gate = torch.mv(self.gate, torch.arange(1.0, 6).to(self.gate))
        return self.head(self.b(self.a(x) * gate[:, None, None]).mean((2, 3)))


class Expectation(Toy):
    """Linear products with a vector in the place of a matrix, as the mean of a distribution."""

    GROUPS = {'a': (8, {'a'}, {'b'})}
    PINNED = frozenset({'b', 'places', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.weight = conv(3, 8), conv(8, 6), nn.Parameter(torch.rand(8))
        self.register_buffer('places', torch.arange(6.0))

    def forward(self, x):
        x = self.a(x)
        shares = self.b(x).permute(0, 2, 3, 1).softmax(-1)
        return F.linear(shares, self.places) + F.linear(x.permute(0, 2, 3, 1), self.weight)


class UnfoldByMethod(Toy):
    """Windows by ``Tensor.unfold``, of which the mean is taken."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x).unfold(2, 2, 2).unfold(3, 4, 2).amax((-2, -1))
        return self.head(self.b(x).mean((2, 3)))


class ShufflesAndGates(Toy):
    """A native channel shuffle, whose blocks keep equally many, and a gated linear unit."""

    GROUPS = {'a': (16, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(16, 12), nn.Linear(6, 4)
        self.shuffle = nn.ChannelShuffle(4)

    def forward(self, x):
        x = self.b(F.relu(self.shuffle(self.a(x))))
        return self.head(F.glu(x, 1).mean((2, 3)))


class Picks(Toy):
    """Positions picked by number leave channels whole; rows of a bag of words are means."""

    INPUT = None
    GROUPS = {'a': (8, {'words', 'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight'})
    REASONS = {'words.weight': 'its rows are looked up by number'}

    def __init__(self):
        super().__init__()
        self.words, self.a = nn.EmbeddingBag(9, 8), conv(3, 8)
        self.b, self.head = conv(8, 6), nn.Linear(6, 4)

    @staticmethod
    def data():
        return torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.arange(8).reshape(2, 4)

    def forward(self, x, words):
        x = F.batch_norm(self.a(x), None, None, training=True)
        x = x * self.words(words)[:, :, None, None]
        rows = torch.arange(4)[None, None, :, None].expand(2, x.shape[1], 4, 8)
        x = x.gather(2, rows) + x.index_select(2, torch.tensor([7, 1, 2, 2]))
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class Einsum(Toy):
    """Products by einsum: with a bare weight, and of two feature maps."""

    GROUPS = {
        'a': (8, {'a'}, {'keys', 'queries', 'values'}),
        'values': (6, {'values'}, {'head'}),
        'keys': (5, {'keys', 'queries'}, set()),
    }

    def __init__(self):
        super().__init__()
        self.a, self.head = conv(3, 8), nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.keys, self.queries, self.values = conv(8, 5), conv(8, 5), conv(8, 6)

    def forward(self, x):
        x = self.a(x)
        y = torch.einsum('bchw,oc->bohw', x, self.weight).flatten(2)
        keys, queries, values = (f(x).flatten(2) for f in (self.keys, self.queries, self.values))
        weights = torch.einsum('bcn,bcm->bnm', keys, queries).softmax(-1)
        return self.head((y + torch.einsum('bnm,bcm->bcn', weights, values)).mean(2))


class Fourier(Toy):
    """A filter per channel in the space of frequencies, as in GFNet and HorNet."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    REASONS = {
        'filter#0': 'has positions there, not channels',
        'filter#1': 'has positions there, not channels',
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.filter = nn.Parameter(torch.randn(8, 8, 5, 2))

    def forward(self, x):
        x = torch.fft.rfft2(self.a(x), dim=(2, 3), norm='ortho')
        x = x * torch.view_as_complex(self.filter)
        x = torch.fft.irfft2(x, s=(8, 8), dim=(2, 3), norm='ortho')
        return self.head(self.b(F.relu(x)).mean((2, 3)))


class FourierOfChannels(Toy):
    """A transform along the channels mixes all of them."""

    GROUPS = {'b': (6, {'b'}, {'head'})}
    REASONS = {
        'a': 'FftR2CBackward0 in the root module transforms the channels',
        'b.weight': 'comes from FftR2CBackward0',
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.fft.fft(self.a(x), dim=1).real
        return self.head(self.b(F.relu(x)).mean((2, 3)))


TOYS = toys_of(globals())
