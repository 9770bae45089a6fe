"""Toy networks with recurrent layers and cells, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy


class Recurrent(Toy):
    """Base of networks with a recurrent layer between two linear ones."""

    INPUT = (2, 5, 3)
    GROUPS = {
        'a': (8, {'a'}, {'rnn'}),
        'rnn': (6, {'rnn'}, {'rnn', 'b'}),
        'b': (5, {'b'}, {'head'}),
    }

    def __init__(self, rnn, width=6):
        super().__init__()
        self.a, self.rnn = nn.Linear(3, 8), rnn
        self.b, self.head = nn.Linear(width, 5), nn.Linear(5, 4)

    def forward(self, x):
        x, _ = self.rnn(F.relu(self.a(x)))
        return self.head(F.relu(self.b(x)))


class Lstm(Recurrent):
    def __init__(self):
        super().__init__(nn.LSTM(8, 6, batch_first=True))


class Gru(Recurrent):
    def __init__(self):
        super().__init__(nn.GRU(8, 6, batch_first=True))


class Elman(Recurrent):
    def __init__(self):
        super().__init__(nn.RNN(8, 6, batch_first=True))


class DeepLstm(Recurrent):
    """Two layers in both directions: four rows of six channels, of which equally many stay."""

    GROUPS = {**Recurrent.GROUPS, 'rnn': (24, {'rnn'}, {'rnn', 'b'})}

    def __init__(self):
        super().__init__(nn.LSTM(8, 6, 2, bidirectional=True), 12)


class LstmFromZeros(Recurrent):
    """A state of zeros for every layer and direction, as wide as the layer says it is."""

    GROUPS = {**Recurrent.GROUPS, 'rnn': (6, {'rnn'}, {'rnn', 'b'})}

    def __init__(self):
        super().__init__(nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), 12)

    def forward(self, x):
        state = torch.zeros(4, x.size(0), self.rnn.hidden_size, dtype=x.dtype)
        x, _ = self.rnn(F.relu(self.a(x)), (state, state))
        return self.head(F.relu(self.b(x[:, -1])))


class GruFromParameter(Recurrent):
    """A learned state for every layer, whose channels are those of all layers."""

    GROUPS = {**Recurrent.GROUPS, 'rnn': (6, {'rnn'}, {'rnn', 'b'})}
    PINNED = {*Recurrent.PINNED, 'start'}

    def __init__(self):
        super().__init__(nn.GRU(8, 6, 2, batch_first=True))
        self.start = nn.Parameter(torch.randn(2, 1, 6))

    def forward(self, x):
        x, _ = self.rnn(F.relu(self.a(x)), self.start.expand(-1, len(x), -1).contiguous())
        return self.head(F.relu(self.b(x)))


class CellFromZeros(Recurrent):
    """A cell is asked how wide it is."""

    GROUPS = {**Recurrent.GROUPS, 'rnn': (6, {'rnn'}, {'rnn', 'b'})}

    def __init__(self):
        super().__init__(nn.GRUCell(8, 6))

    def forward(self, x):
        state = x.new_zeros(len(x), self.rnn.hidden_size)
        for step in F.relu(self.a(x)).unbind(1):
            state = self.rnn(step, state)
        return self.head(F.relu(self.b(state)))


class CellFromZerosOfItsWeight(CellFromZeros):
    """A weight of another layer is asked how wide it is."""

    def forward(self, x):
        state = torch.zeros(len(x), self.rnn.weight_hh.shape[1], dtype=x.dtype)
        for step in F.relu(self.a(x)).unbind(1):
            state = self.rnn(step, state)
        return self.head(F.relu(self.b(state)))


class ProjectedLstm(Recurrent):
    """Hidden channels and projected ones are two decisions; no biases."""

    GROUPS = {
        'a': (8, {'a'}, {'rnn'}),
        'rnn': (4, {'rnn'}, {'rnn', 'b'}),
        'rnn.weight_hr_l0': (6, set(), set()),
        'b': (5, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__(nn.LSTM(8, 6, bias=False, proj_size=4, batch_first=True), 4)


class EncoderAndDecoder(Recurrent):
    """A state that is handed from one recurrent layer to another."""

    GROUPS = {
        'a': (8, {'a'}, {'rnn', 'decoder'}),
        'rnn': (6, {'rnn', 'decoder'}, {'rnn', 'decoder', 'b'}),
        'b': (5, {'b'}, {'head'}),
    }

    def __init__(self):
        super().__init__(nn.GRU(8, 6, batch_first=True))
        self.decoder = nn.GRU(8, 6, batch_first=True)

    def forward(self, x):
        x = F.relu(self.a(x))
        x, _ = self.decoder(x.flip(1), self.rnn(x)[1])
        return self.head(F.relu(self.b(x)))


class PackedSequences(Recurrent):
    """Sequences of several lengths."""

    def __init__(self):
        super().__init__(nn.LSTM(8, 6, batch_first=True))

    def forward(self, x):
        x = F.relu(self.a(x))
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
        x, (last, _) = self.rnn(packed)
        x, _ = nn.utils.rnn.pad_packed_sequence(x, batch_first=True)
        return self.head(F.relu(self.b(x.mean(1) + last[-1])))


class GruCell(Recurrent):
    """A cell with a state that the network makes from its input."""

    GROUPS = {
        'a': (8, {'a'}, {'rnn'}),
        'start': (6, {'rnn', 'start'}, {'rnn', 'b'}),
        'b': (5, {'b'}, {'head'}),
    }
    PINNED = frozenset({'a.weight', 'start.weight', 'head'})

    def __init__(self):
        super().__init__(nn.GRUCell(8, 6))
        self.start = nn.Linear(3, 6)

    def forward(self, x):
        state = torch.tanh(self.start(x.mean(1)))
        for step in F.relu(self.a(x)).unbind(1):
            state = self.rnn(step, state)
        return self.head(F.relu(self.b(state)))


class LstmCell(Recurrent):
    """A cell that the network itself calls at every step."""

    def __init__(self):
        super().__init__(nn.LSTMCell(8, 6))

    def forward(self, x):
        x = F.relu(self.a(x))
        state = None
        for step in x.unbind(1):
            state = self.rnn(step, state)
        return self.head(F.relu(self.b(state[0])))


TOYS = [
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Recurrent) and value is not Recurrent
]
