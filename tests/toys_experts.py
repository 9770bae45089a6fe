"""Toy networks with mixtures of experts, and their expected groups."""

import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Toy

from mmprune.registry import BACKWARD_PARSERS, table


class DoubleGroupedMm(torch.autograd.Function):
    """As torch's own, in double precision."""

    @staticmethod
    def forward(ctx, rows, weights, ends):
        ctx.save_for_backward(rows, weights)
        if rows.dim() == 3:  # as many rows for each
            ctx.ends = None
            return rows @ weights
        ctx.ends = [0, *ends.tolist()]
        parts = zip(ctx.ends, ctx.ends[1:], weights, strict=False)
        return torch.cat([rows[start:stop] @ weight for start, stop, weight in parts])

    @staticmethod
    def backward(ctx, gradient):
        rows, weights = ctx.saved_tensors
        if ctx.ends is None:
            return gradient @ weights.mT, rows.mT @ gradient, None
        spans = list(zip(ctx.ends, ctx.ends[1:], strict=False))
        of_rows = [gradient[a:b] @ w.T for (a, b), w in zip(spans, weights, strict=True)]
        return (
            torch.cat(of_rows),
            torch.stack([rows[a:b].T @ gradient[a:b] for a, b in spans]),
            None,
        )


@BACKWARD_PARSERS.register_module(name='DoubleGroupedMmBackward', force=True)
def parse_as_torchs_own(grad_fn):
    return table(BACKWARD_PARSERS)['GroupedMmBackward'](grad_fn)


def grouped_mm(rows, weights, ends):
    if rows.dtype == torch.float64:
        return DoubleGroupedMm.apply(rows, weights, ends)
    return F.grouped_mm(rows, weights, offs=ends)


class Experts(nn.Module):
    """Gate and inner layer in one weight; rows are sorted by expert, and put back."""

    def __init__(self, width, inner, count, turned=True):
        super().__init__()
        self.count, self.turned = count, turned
        shapes = (2 * inner, width), (width, inner)
        shapes = shapes if turned else [shape[::-1] for shape in shapes]
        self.gate_up, self.down = (nn.Parameter(torch.rand(count, *s) - 0.5) for s in shapes)

    def product(self, rows, weights, ends):
        return grouped_mm(rows, weights.transpose(1, 2) if self.turned else weights, ends)

    def forward(self, rows, chosen, shares):
        tokens, top = chosen.shape
        order = chosen.flatten().argsort(stable=True)
        ends = F.one_hot(chosen.flatten(), self.count).sum(0).cumsum(0).to(torch.int32)
        x = rows.repeat_interleave(top, 0)[order]
        gate, up = self.product(x, self.gate_up, ends).chunk(2, -1)
        x = self.product(F.silu(gate) * up, self.down, ends)
        x = x * shares.flatten()[order][:, None]
        return x[order.argsort()].reshape(tokens, top, -1).sum(1)


class MixtureOfExperts(Toy):
    """Two of three experts for each token; widths are in blocks of eight, as kernels want them."""

    INPUT = (2, 5, 6)
    TURNED = True
    PICKLES = False
    GROUPS = {
        'a': (4, {'a', 'norm', 'experts'}, {'router', 'experts', 'head'}),
        'experts': (3, {'experts'}, {'experts'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'router', 'experts.gate_up', 'experts.down'})

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.router = nn.Linear(6, 32), nn.LayerNorm(32), nn.Linear(32, 3)
        self.experts, self.head = Experts(32, 24, 3, self.TURNED), nn.Linear(32, 4)

    def forward(self, x):
        x = self.a(x).flatten(0, 1)
        rows = self.norm(x)
        shares, chosen = self.router(rows).softmax(-1).topk(2, -1)
        return self.head(x + self.experts(rows, chosen, shares))


class ExpertsOfColumns(MixtureOfExperts):
    """Weights that are stored the other way round."""

    TURNED = False


class ExpertsOfBatches(Toy):
    """Every expert has as many rows: an image is a batch for each."""

    INPUT = (3, 5, 6)
    PICKLES = False
    GROUPS = {
        'a': (4, {'a'}, {'experts'}),
        'experts#0': (3, {'experts'}, {'experts'}),
        'experts#1': (32, {'experts'}, {'head'}),
    }
    PINNED = frozenset({'head', 'a.weight', 'experts.gate_up', 'experts.down'})

    def __init__(self):
        super().__init__()
        self.a, self.experts, self.head = nn.Linear(6, 32), Experts(32, 24, 3), nn.Linear(32, 4)

    def forward(self, x):
        experts = self.experts
        gate, up = experts.product(self.a(x), experts.gate_up, None).chunk(2, -1)
        return self.head(F.relu(experts.product(gate.tanh() * up, experts.down, None)))


class IdleExpert(Toy):
    """Each expert adds to the rows that it was chosen for; one of them was chosen for none."""

    INPUT = (7, 6)
    GROUPS = {
        'a': (10, {'a', 'experts.0.2', 'experts.1.2', 'experts.2.2'}, {
            'experts.0.0', 'experts.1.0', 'experts.2.0', 'head'}),
        'experts.0.0': (8, {'experts.0.0'}, {'experts.0.2'}),
        'experts.1.0': (8, {'experts.1.0'}, {'experts.1.2'}),
        'experts.2.0': (8, {'experts.2.0'}, {'experts.2.2'}),
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 10), nn.Linear(10, 4)
        layers = [(nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 10)) for _ in range(3)]
        self.experts = nn.ModuleList(nn.Sequential(*own) for own in layers)

    def forward(self, x):
        x = self.a(x)
        out, chosen = torch.zeros_like(x), torch.arange(len(x)) % 2
        for number, expert in enumerate(self.experts):
            rows = torch.where(chosen == number)[0]
            out.index_add_(0, rows, expert(x[None, rows].reshape(-1, x.shape[-1])))
        return self.head(x + out)


TOYS = [MixtureOfExperts, ExpertsOfColumns, ExpertsOfBatches, IdleExpert]
