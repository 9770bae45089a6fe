"""The table of operations: a wrong parser is told where it has read, before a rule goes by it."""

import subprocess
import sys
import timeit

import pytest
import torch
from torch import nn

from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES, table
from mmprune.trace import trace
from mmprune.trace.operations import OPERATIONS, ParserError, check_operations


class Sinc(nn.Module):
    def forward(self, x):
        return torch.sinc(x)


class Pooled(nn.Module):
    """An operation without a parser that gives another shape than it gets."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(torch.sinc(x), 2)


def network(middle):
    return nn.Sequential(nn.Conv2d(3, 8, 3), middle, nn.Conv2d(8, 4, 1))


@pytest.fixture
def reads(monkeypatch):
    """Let a node be read by another parser."""

    def reads(name, parser):
        monkeypatch.setitem(table(BACKWARD_PARSERS), name, parser)

    return reads


def test_every_operation_with_a_rule_is_in_the_table():
    rules = {n for n, rule in table(CHANNEL_RULES).items() if rule.__module__.startswith('mmprune')}
    assert OPERATIONS.keys() == rules


WRONG = {
    'no attribute': (
        ('softmax', {}),
        "operation 'softmax', but it lacks the attribute 'dim' (a dim of its tensors); the parser "
        'gave none',
    ),
    'another name': (
        ('softmax', {'dims': 1}),
        "lacks the attribute 'dim' (a dim of its tensors); the parser gave ['dims']",
    ),
    'another type': (
        ('softmax', {'dim': 'channels'}),
        "its attribute 'dim' is a dim of its tensors (which have up to 4 dims), and this is "
        "'channels'",
    ),
    'no such dim': (('flip', {'dims': (1, 4)}), "and this is (1, 4)"),
    'unsigned': (('softmax', {'dim': 2**64 - 3}), 'and this is 18446744073709551613'),
    'a truth for a number': (
        ('channel_shuffle', {'groups': True}),
        "its attribute 'groups' is a whole number, and this is True",
    ),
    'one too many': (
        ('elementwise', {'slope': 0.1}),
        "it has no attribute 'slope'; there are 'constants', 'low', 'high'",
    ),
    'inputs': (('matmul', {}), 'it takes 2 inputs, and this node has 1'),
    'no pair': ('elementwise', "must give an operation and a dict of its attributes"),
    'no dict': (('elementwise', None), "and gave ('elementwise', None)"),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_parser_is_told_with_its_node_and_module(name, reads):
    result, message = WRONG[name]
    reads('SincBackward', lambda grad_fn: result)
    with pytest.raises(ParserError) as error:
        trace(network(Sinc()), torch.rand(2, 3, 8, 8))
    assert str(error.value).startswith('the parser of SincBackward0 in 1 ')
    assert message in str(error.value)


def test_a_parser_that_fails_is_told_with_its_node_and_module(reads):
    reads('SincBackward', lambda grad_fn: ('softmax', {'dim': grad_fn._saved_dim}))
    with pytest.raises(ParserError, match=r'parser of SincBackward0 in 1 failed: AttributeError'):
        trace(network(Sinc()), torch.rand(2, 3, 8, 8))


def test_what_changes_the_shape_is_no_elementwise_operation(reads):
    reads('AvgPool2DBackward', lambda grad_fn: ('elementwise', {}))
    with pytest.raises(ParserError, match=r'turns \(2, 8, 6, 6\) into \(2, 8, 3, 3\)'):
        trace(network(nn.AvgPool2d(2)), torch.rand(2, 3, 8, 8))


class InTraining(nn.Module):
    def forward(self, x):
        return torch.sinc(x) if self.training else x


def test_a_wrong_parser_on_a_later_road_is_told_too(reads):
    reads('SincBackward', lambda grad_fn: ('softmax', {'dim': 7}))
    with pytest.raises(ParserError, match=r'SincBackward0 in 1 reads it .* and this is 7'):
        trace(network(InTraining()), torch.rand(2, 3, 8, 8))


class Roll(torch.autograd.Function):
    """A function of a user's that is called as one of torch's."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy().cumsum(1))

    @staticmethod
    def backward(ctx, grad):
        return grad.flip(1).cumsum(1).flip(1)


class Relu(Roll):
    """The same, where the parser of its namesake would find nothing amiss."""


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


@pytest.mark.parametrize('function', [Roll, Relu])
def test_a_namesake_of_a_function_of_torch_is_not_taken_for_it(function, reads):
    name = f'{function.__name__}Backward'
    data = torch.rand(2, 3, 8, 8)
    assert trace(network(Applied(function)), data).opaque == {name: ('1',)}
    reads(name, lambda grad_fn: ('along', {'dim': 1}))  # by who knows better
    assert not trace(network(Applied(function)), data).opaque


def test_a_parser_that_was_registered_before_those_of_mmprune_is_its_own():
    program = """
import torch
from torch import nn
from mmprune.registry import BACKWARD_PARSERS

@BACKWARD_PARSERS.register_module(name='ScaledBackward')
def parse(grad_fn):
    return 'elementwise', {}

class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, grad):
        return grad * 2

class Network(nn.Conv2d):
    def forward(self, x):
        return Scaled.apply(super().forward(x))

from mmprune.trace import trace
assert not trace(Network(3, 4, 1), torch.rand(1, 3, 4, 4)).opaque
"""
    subprocess.run([sys.executable, '-c', program], check=True)


def test_the_check_takes_a_small_part_of_a_trace():
    model = nn.Sequential(*[m for _ in range(60) for m in (nn.Conv2d(4, 4, 1), nn.ReLU())])
    data = torch.rand(1, 4, 4, 4)
    graph = trace(model, data)

    def shape_of(edge):
        return graph.nodes[edge[0]].shapes[edge[1]]

    check = min(timeit.repeat(lambda: check_operations(graph.nodes, shape_of), number=1, repeat=5))
    whole = min(timeit.repeat(lambda: trace(model, data), number=1, repeat=3))
    assert check < whole / 20, (check, whole)
