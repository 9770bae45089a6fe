"""Toy networks of what gradients and graphs do not show at once, and their expected groups.

Regions without gradients, activation checkpointing, functions of one's own, in-place writes.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from toy_networks import Toy, conv, toys_of


class NoGradBody(Toy):
    """A body that is not trained runs under ``no_grad``; it is pruned all the same."""

    GROUPS = {'a': (8, {'a', 'norm'}, {'b'}), 'b': (6, {'b'}, {'c'}), 'c': (5, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6), conv(6, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        with torch.no_grad():
            x = self.b(F.relu(self.norm(self.a(x))))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class DetachedBranch(Toy):
    """A branch that is detached, and one that starts from a copy of its input's likeness."""

    GROUPS = {'a': (8, {'a', 'c'}, {'b', 'c'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(8, 8), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        y = torch.zeros_like(x)
        y += self.c(x.detach())
        return self.head(self.b(x + F.relu(y)).mean((2, 3)))


class InferenceBody(Toy):
    """What runs in inference mode is not recorded by autograd, and stays."""

    GROUPS = {'c': (5, {'c'}, {'head'})}
    PINNED = frozenset({'head'})
    REASONS = {
        **{
            name: 'conv2d in a uses it outside of the autograd graph'
            for name in ('a.weight#0', 'a.weight#1', 'a.weight#2', 'a.weight#3', 'a.bias')
        },
        'c.weight': 'is a constant',
    }
    UNCOUNTED = 2 * (2 * 8 * 8) * (8 * 3 * 3 * 3)

    def __init__(self):
        super().__init__()
        self.a, self.c, self.head = conv(3, 8), conv(8, 5), nn.Linear(5, 4)

    def forward(self, x):
        with torch.inference_mode():
            x = F.relu(self.a(x))
        return self.head(F.relu(self.c(x.clone())).mean((2, 3)))


class Checkpointed(Toy):
    """Activation checkpointing without re-entering autograd."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b', 'norm'}, {'head'})}
    REENTRANT = False

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 8), conv(8, 6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def inner(self, x):
        return F.relu(self.norm(self.b(x)))

    def forward(self, x):
        x = checkpoint(self.inner, self.a(x), use_reentrant=self.REENTRANT)
        return self.head(x.mean((2, 3)))


class CheckpointedReentrant(Checkpointed):
    """The older kind, whose inside autograd does not show."""

    REENTRANT = True


class CheckpointedParameters(Checkpointed):
    """The part that runs again reads parameters of the module that checkpoints it."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.norm = None
        self.gamma = nn.Parameter(torch.ones(6, 1, 1))

    def inner(self, x):
        x = self.b(x) * self.gamma
        return F.relu(x - x.mean(1, keepdim=True))


class CheckpointedParametersReentrant(CheckpointedParameters):
    """The same with the older kind."""

    REENTRANT = True


class CheckpointedMeans(Checkpointed):
    """Of several means of tensors of one shape, in one module, the second runs again."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (8, {'b'}, {'c'}), 'c': (8, {'c'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.norm = None
        self.b, self.c, self.head = conv(8, 8), conv(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.b(self.inner(self.a(x)))
        x = self.c(checkpoint(self.inner, x, use_reentrant=self.REENTRANT))
        return self.head(self.inner(x).mean((2, 3)))

    def inner(self, x):
        return F.relu(x - x.mean(1, keepdim=True))


class CheckpointedMeansReentrant(CheckpointedMeans):
    """The same with the older kind."""

    REENTRANT = True


class CheckpointedSequence(Toy):
    """``checkpoint_sequential`` over three layers."""

    GROUPS = {
        'a': (8, {'a'}, {'body.0'}),
        'body.0': (6, {'body.0'}, {'body.2'}),
        'body.2': (5, {'body.2'}, {'head'}),
    }

    def __init__(self):
        super().__init__()
        self.a, self.body = conv(3, 8), nn.Sequential(conv(8, 6), nn.ReLU(), conv(6, 5))
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = checkpoint_sequential(self.body, 2, self.a(x), use_reentrant=False)
        return self.head(x.mean((2, 3)))


class Swish(torch.autograd.Function):
    """Its forward is code as any other."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * gate * (1 + x * (1 - gate))


class StepOfSign(torch.autograd.Function):
    """Written the newer way, with a context of its own."""

    @staticmethod
    def forward(x, least):
        return torch.where(x > least, x.sign(), x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is saved."""

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class CustomFunction(Toy):
    """What the forward of a function does is seen, whatever its backward says."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}
    apply = StepOfSign.apply  # as some code keeps it

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(Swish.apply(self.a(x)))
        return self.head(CustomFunction.apply(x, 0.0).mean((2, 3)))


class Double(torch.autograd.Function):
    """Its forward leaves torch; autograd shows nothing but its name."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class FunctionOutsideTorch(Toy):
    """A function that nobody taught mmprune pins what goes through it."""

    GROUPS = {'b': (6, {'b'}, {'head'})}
    REASONS = {
        'a': 'goes through DoubleBackward, which mmprune does not know, in the root',
        'b.weight': 'comes from DoubleBackward, which mmprune does not know, in the root',
    }

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.relu(self.b(Double.apply(self.a(x)))).mean((2, 3)))


class WritesPositions(Toy):
    """Writes into parts of space leave channels whole."""

    GROUPS = {'a': (8, {'a', 'c'}, {'c', 'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b, self.head = conv(3, 8), conv(8, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        y = self.c(x).clone()
        y[:, :, 2:6, 1:5] = x[:, :, 2:6, 1:5] * 2
        y[:, :, 0] = 0.5
        y[..., 0] += x[..., 1]
        return self.head(F.relu(self.b(y)).mean((2, 3)))


class WritesRows(Toy):
    """Rows written one by one into an empty tensor in the likeness of another one."""

    GROUPS = {'a': (8, {'a'}, {'b'}), 'b': (6, {'b'}, {'head'})}

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        y = torch.empty_like(x)
        for row in range(x.shape[2]):
            y[:, :, row] = x[:, :, row - 1]
        return self.head(F.relu(self.b(y)).mean((2, 3)))


class WritesChannels(Toy):
    """A write into some of the channels, by number: those before its end stay."""

    GROUPS = {'b': (6, {'b'}, {'head'}), 'a#2': (2, {'a'}, {'b'})}
    PINNED = frozenset({'head', 'a.weight', 'c.weight'})
    REASONS = {
        'a#0': 'a slice in the root module counts 2 of them in its code',
        'a#1': 'a slice in the root module counts 6 of them in its code',
    }

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b, self.head = conv(3, 8), conv(3, 4), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        y = self.a(x)
        y[:, 2:6] = self.c(x)
        return self.head(F.relu(self.b(y)).mean((2, 3)))


class TemporalShift(Toy):
    """A part of the channels is taken from the frame before (Lin et al., TSM, 2019)."""

    INPUT = (8, 3, 6, 6)
    GROUPS = {'a': (16, {'a'}, {'b'})}
    PINNED = frozenset({'b', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.frames, self.share = 4, 4
        self.a, self.b = conv(3, 16), conv(16, 4)

    def forward(self, x):
        x = self.a(x)
        count, channels, height, width = x.shape
        x = x.view(count // self.frames, self.frames, channels, height, width)
        part, shifted = channels // self.share, torch.zeros_like(x)
        shifted[:, :-1, :part] = x[:, 1:, :part]
        shifted[:, 1:, part : 2 * part] = x[:, :-1, part : 2 * part]
        shifted[:, :, 2 * part :] = x[:, :, 2 * part :]
        return self.b(shifted.view(count, channels, height, width))


class Neighbours(Toy):
    """Distances between points in the space of their channels."""

    INPUT = (2, 6, 3)
    GROUPS = {'a': (8, {'a'}, {'b'})}
    PINNED = frozenset({'b', 'a.weight'})

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        near = torch.softmax(-torch.cdist(x, x), -1)
        return self.b(near @ x)


class Assembled(Toy):
    """Parts written side by side into a tensor of zeros, by number; ``cat`` would be pruned."""

    GROUPS = {'b': (6, {'b'}, {'head'})}
    PINNED = frozenset({'head', 'a.weight', 'c.weight'})
    REASONS = {
        'a': 'CopySlices in the root module writes into a constant',
        'c': 'CopySlices in the root module writes into some of the channels',
        'b.weight': 'comes from CopySlices in the root module',
    }

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b, self.head = conv(3, 4), conv(3, 4), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        y = x.new_zeros(2, 8, 8, 8)
        y[:, :4] = self.a(x)
        y[:, 4:] = self.c(x)
        return self.head(F.relu(self.b(y)).mean((2, 3)))


TOYS = toys_of(globals())
