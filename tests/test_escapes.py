"""What the autograd graph does not show: values that leave it, constants that enter it."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from exactness import IMAGE, assert_exact, conv, prepare
from torch import nn
from torch.utils.checkpoint import checkpoint
from toys_sampled import GeometricMean

from mmprune.trace import TraceError, trace


class Branch(nn.Module):
    """A layer, then something with its output ``x``, then two more layers."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 4)
        self.register_buffer('row', torch.randn(1, 8, 1, 1))
        self.register_buffer('plane', torch.randn(8, 8))
        self.register_buffer('flat', torch.randn(8))

    def forward(self, x):
        return self.how(self, self.a(x))


def under(context, function):
    def run(net, x):
        with context():
            y = function(net, x)
        return net.d(x), y

    return run


# What a network does, and what it pins besides its output: {space_id: part of the reason}.
OUTSIDE = {
    # What has no gradients has channels all the same: a trace sees it.
    'detach': (lambda net, x: (net.d(x), net.b(x.detach())), {}),
    'data': (lambda net, x: (net.d(x), net.b(x.data)), {}),
    'detach, then more': (lambda net, x: (net.d(x), net.b(F.relu(x.detach()) * 2)), {}),
    'detach what nothing else reads': (
        lambda net, x: net.d(net.c(F.relu(net.b(x)).detach()) + x),
        {},
    ),
    'detached output': (lambda net, x: (net.d(x), x.detach()), {'a': 'output of the network'}),
    'no_grad': (under(torch.no_grad, lambda net, x: net.b(x)), {}),
    'no_grad, then a layer': (under(torch.no_grad, lambda net, x: net.b(F.relu(x))), {}),
    'no_grad around a write to a buffer': (
        under(torch.no_grad, lambda net, x: (net.row.add_(0), net.b(x))[1]),
        {},
    ),
    'no_grad around a write that gradients forbid': (
        under(torch.no_grad, lambda net, x: (net.b.weight.clamp_(-9, 9), net.b(x))[1]),
        {'a': 'conv2d in b'},
    ),
    'ones_like': (lambda net, x: net.d(net.b(x) + torch.ones_like(x)), {}),
    'zeros_like, written to': (
        lambda net, x: net.d(torch.zeros_like(x).add_(net.b(x)) + F.relu(x)),
        {},
    ),
    'inference mode': (under(torch.inference_mode, lambda net, x: net.b(x)), {'a': 'conv2d in b'}),
    'numpy': (
        lambda net, x: net.d(x) + float(net.b(x.detach()).detach().numpy().mean()),
        {'b': 'numpy in the root module'},
    ),
    'comparison': (
        lambda net, x: net.d(torch.where(x > 0, net.b(x), net.c(x))),
        {},
    ),
    'masked fill': (
        lambda net, x: net.d(net.b(x).masked_fill(x > 0, 0.5)),
        {},
    ),
    'a mask that takes elements': (
        lambda net, x: (net.d(x), net.b(x)[x > 0].sum()),
        None,
    ),
    'a mask that is looked at': (
        lambda net, x: net.d(net.b(x)) * (1 + float((x > 0).any())),
        {'a': 'gt in the root module'},
    ),
    'argmax': (
        lambda net, x: net.d(net.b(x) * x.argmax(1, keepdim=True)),
        {'a': 'argmax in the root module'},
    ),
    'a number': (
        lambda net, x: net.d(net.b(x) * float(x.flatten(1)[0, 5])),
        {'a': 'takes channels by their number'},
    ),
    'buffer along the channels': (lambda net, x: net.d(x + net.row), {}),
    'buffer along the channels, from the left': (
        lambda net, x: net.d(torch.maximum(net.row, x)),
        {},
    ),
    'buffer over space': (lambda net, x: net.d(x + net.plane), {}),
    'buffer as bias of a convolution': (
        lambda net, x: net.d(F.conv2d(x, net.b.weight, net.flat)),
        {},
    ),
    'buffer as bias of a linear layer': (
        lambda net, x: net.d(
            F.linear(x.permute(0, 2, 3, 1), net.b.weight[:, :, 1, 1], net.flat).permute(0, 3, 1, 2)
        ),
        None,
    ),
    'buffer as weight of a norm': (
        lambda net, x: net.d(F.group_norm(x, 2, net.flat)),
        {},
    ),
    'numbers': (lambda net, x: net.d((x + 1) * 2 / 3 - 0.5), {}),
    'detached and not used': (lambda net, x: (x.detach(), net.d(x))[1], {}),
    'indices that nobody reads': (lambda net, x: net.d(x.max(-1, keepdim=True)[0] + x), {}),
}


@pytest.mark.parametrize('name', OUTSIDE)
def test_what_leaves_the_graph_and_constants_that_enter_it_are_pinned(name):
    how, expected = OUTSIDE[name]
    model, pruner = prepare(Branch(how))
    reasons = {s: group.reason for s, group in pruner.channel_groups.items() if s in 'abc'}
    pinned = {s: why for s, why in reasons.items() if why}
    if 'a' not in (expected or {}) or 'output' not in expected['a']:
        pinned = {s: why for s, why in pinned.items() if why != 'output of the network'}
    if expected is not None:
        assert pinned.keys() == expected.keys()
        for space_id, part in expected.items():
            assert part in pinned[space_id], pinned[space_id]
    assert_exact(model, pruner)


def test_unreached_parameters_are_reported():
    def skip_b(net, x):
        with torch.inference_mode():
            y = net.b(x)
        return net.d(x), y

    model, pruner = prepare(Branch(skip_b))
    unreached = pruner.supernet.graph.unreached
    assert set(unreached) == {'b.weight', 'b.bias', 'c.weight', 'c.bias'}
    assert all('inference mode' in why for why in unreached.values())
    assert 'parameters not reached (2): b.weight, b.bias: not part' in pruner.report()
    before = {name: p.shape for name, p in model.named_parameters()}
    pruner.set_min_channel()
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    for name in unreached:
        assert deployed.get_parameter(name).shape == before[name]


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.a, self.b, self.c = (
            conv(3, 8),
            nn.Sequential(conv(8, 8), nn.BatchNorm2d(8)),
            conv(8, 4),
        )
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return self.c(checkpoint(self.b, self.a(x), use_reentrant=self.use_reentrant))


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_activation_checkpointing(use_reentrant):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='None of the inputs have requires_grad')
        model, pruner = prepare(Checkpointed(use_reentrant))
        graph = pruner.supernet.graph
        assert list(pruner.channel_spaces) == ['a', 'b.0']
        assert (graph.unreached, graph.opaque, graph.recomputing) == ({}, {}, ('',))
        assert_exact(model, pruner)


def test_outputs_that_are_parameters_are_pinned():
    class ReturnsItsScale(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.scale = (
                conv(3, 8),
                conv(8, 4),
                nn.Parameter(torch.rand(1, 8, 1, 1)),
            )

        def forward(self, x):
            return self.b(self.a(x) * self.scale), self.scale

    model, pruner = prepare(ReturnsItsScale())
    assert pruner.channel_groups['a'].reason == 'output of the network'
    assert_exact(model, pruner)


@pytest.mark.parametrize(
    ('forward', 'message'),
    [
        (
            lambda net, x: torch.tensor(net.d(x).tolist()),
            'does not depend on any of its parameters',
        ),
        (lambda net, x: 3, 'does not depend on any of its parameters'),
        (lambda net, x: net.b(net.d(x)), "in module 'b'"),
    ],
)
def test_models_without_a_graph_are_refused(forward, message):
    with pytest.raises(TraceError, match=message):
        trace(Branch(forward).double(), IMAGE)


def test_what_a_function_of_autograd_does_inside_has_not_left_the_graph():
    model = GeometricMean().double()
    assert not trace(model, torch.randn(2, 3, 8, 8, dtype=torch.float64)).escapes
