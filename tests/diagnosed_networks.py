"""Networks for the doctor, which configs find by custom_imports: each has one thing wrong."""

import torch
from mmengine.registry import MODELS
from torch import nn


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Sick(nn.Module):
    """Three convolutions, and something between the second and the third."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(self.between(self.b(self.a(x).relu())))

    def between(self, x):
        return x


@MODELS.register_module()
class Healthy(Sick):
    """Nothing is wrong."""


@MODELS.register_module()
class LeavesTorch(Sick):
    """Its outputs come from numpy."""

    def forward(self, x):
        return torch.from_numpy(super().forward(x).detach().numpy())


@MODELS.register_module()
class NothingToPrune(nn.Module):
    """One layer between input and output."""

    def __init__(self):
        super().__init__()
        self.a = conv(3, 8)

    def forward(self, x):
        return self.a(x)


class ChangesInCopies(nn.Module):
    """Computes something else in a deep copy, and so in a deployed network."""

    factor = 1.0

    def forward(self, x):
        return x * self.factor

    def __deepcopy__(self, memo):
        copied = ChangesInCopies()
        copied.factor = 1.5
        return copied


@MODELS.register_module()
class Diverging(Sick):
    """Deployed, its subnets part from the supernet at ``between_b_and_c``."""

    def __init__(self):
        super().__init__()
        self.between_b_and_c = ChangesInCopies()

    def between(self, x):
        return self.between_b_and_c(x)


@MODELS.register_module()
class Literal(Sick):
    """Views channels by a number in its code."""

    def between(self, x):
        return x.reshape(len(x), 8, -1).softmax(-1).reshape(len(x), 8, *x.shape[2:])


@MODELS.register_module()
class DoesNotFit(Sick):
    """Its second layer wants other channels than the first gives."""

    def __init__(self):
        super().__init__()
        self.b = conv(9, 8)


@MODELS.register_module()
class SinglePrecision(Sick):
    """Runs in float32 only, as models with a cast of their own do."""

    def between(self, x):
        return x @ torch.eye(x.shape[-1])  # of torch's default type


@MODELS.register_module()
class Tame(Sick):
    """A layer scale of 1e-6 would hide everything before it from a comparison."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((8,), 1e-6))
        self.norm = nn.BatchNorm2d(8)

    def between(self, x):
        return self.norm(x) * self.gamma.view(1, -1, 1, 1)
