"""Toy networks of what networks of other libraries do, and their expected groups."""

from torch import nn
from toy_networks import Toy

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


TOYS = [FusedEncoder]
