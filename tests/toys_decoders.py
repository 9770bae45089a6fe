"""Toy networks of what language models are made of, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy


def turned(x):
    """The second half before the first, whose sign changes."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], -1)


class PartialRotary(Toy):
    """Rotary angles on the first dims of each head; pairs of query heads share one key head.

    The feed-forward network has its gate and its inner layer in one, cut in two.
    """

    INPUT = (2, 5, 6)
    WIDTH, HEADS, KEY_HEADS, HEAD, ROTARY = 32, 4, 2, 8, 4
    STREAM = {'a', 'norm', 'o', 'norm2', 'down'}
    GROUPS = {
        'a': (32, STREAM, {'q', 'k', 'v', 'gate_up', 'head'}),
        'q': (2, {'q', 'k', 'v'}, {'o'}),
        'gate_up': (12, {'gate_up'}, {'down'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'speeds'})

    def __init__(self):
        super().__init__()
        width, wide = self.WIDTH, self.HEADS * self.HEAD
        self.a, self.norm, self.norm2 = nn.Linear(6, width), nn.LayerNorm(width), nn.RMSNorm(width)
        self.q, self.k = nn.Linear(width, wide), nn.Linear(width, self.KEY_HEADS * self.HEAD)
        self.v, self.o = nn.Linear(width, self.KEY_HEADS * self.HEAD), nn.Linear(wide, width)
        self.gate_up, self.down = nn.Linear(width, 24, bias=False), nn.Linear(12, width)
        self.head = nn.Linear(width, 4)
        steps = torch.arange(0, self.ROTARY, 2) / self.ROTARY
        self.register_buffer('speeds', 100.0**-steps, persistent=False)

    def rotated(self, x, angles):
        part, rest = x[..., : self.ROTARY], x[..., self.ROTARY :]
        part = part * angles.cos() + turned(part) * angles.sin()
        return torch.cat([part, rest], -1)

    def attend(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.HEAD).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        angles = torch.arange(length).to(self.speeds)[:, None] * self.speeds
        angles = torch.cat([angles, angles], -1)
        q, k = self.rotated(q, angles), self.rotated(k, angles)
        k, v = (t.repeat_interleave(self.HEADS // self.KEY_HEADS, 1) for t in (k, v))
        weights = (q @ k.transpose(-1, -2) * self.HEAD**-0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(batch, length, -1))

    def forward(self, x):
        x = self.a(x)
        x = x + self.attend(self.norm(x))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return self.head(x + self.down(F.silu(gate) * up))


class WholeRotary(PartialRotary):
    """All dims of a head are turned: nothing is left to be passed on."""

    ROTARY = 8


class ComplexRotary(WholeRotary):
    """Neighbouring dims are the parts of a complex number, which is turned by another one."""

    def rotated(self, x, angles):
        numbers = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        angles = angles[:, : numbers.shape[-1]]
        turns = torch.view_as_complex(torch.stack([angles.cos(), angles.sin()], -1))
        return torch.view_as_real(numbers * turns).flatten(-2)


TOYS = [PartialRotary, WholeRotary, ComplexRotary]
