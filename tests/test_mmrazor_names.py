"""The attributes that MMRazor 0.x's pruners have after preparing."""

import pytest
import torch
from torch import nn

from mmprune.registry import PRUNERS


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = Block(8, 8, 1), Block(8, 16, 2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """Concatenations, one in another, with a norm behind them; a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(10)
        self.c, self.deep, self.alone = nn.Conv2d(10, 5, 1), nn.Conv2d(5, 5, 1, groups=5), nn.ReLU()
        self.d, self.free = nn.Conv2d(15, 4, 1), nn.BatchNorm2d(5, affine=False)

    def forward(self, x):
        x = self.a(x)
        y = self.norm(torch.cat([x, self.b(x)], 1))
        return self.d(torch.cat([y, self.free(self.deep(self.c(y)))], 1))


def prepared(model):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model.eval(), torch.randn(1, 3, 8, 8))
    return pruner


@pytest.fixture(scope='module')
def resnet():
    return prepared(ResNet())


@pytest.fixture(scope='module')
def concat():
    return prepared(Concat())


def test_names_and_modules_of_everything_with_a_weight(resnet):
    model = resnet.supernet.model
    expected = [n for n, m in model.named_modules() if not list(m.children()) and n[-1] != 'e']
    assert list(resnet.name2module) == expected
    assert resnet.name2module['layer1.conv2'] is model.layer1.conv2
    assert resnet.module2name[model.layer2.downsample[1]] == 'layer2.downsample.1'
    assert len(resnet.module2name) == len(resnet.name2module)


def test_parents_are_the_layers_whose_outputs_are_read(resnet):
    assert resnet.node2parents == {
        'stem': [],
        'layer1.conv1': ['stem'],
        'layer1.conv2': ['layer1.conv1'],
        'layer2.conv1': ['layer1.conv2', 'stem'],
        'layer2.conv2': ['layer2.conv1'],
        'layer2.downsample.0': ['layer1.conv2', 'stem'],
        'fc': ['layer2.conv2', 'layer2.downsample.0'],
    }


def test_parents_behind_concatenations_are_flattened(concat):
    assert concat.node2parents == {
        'a': [],
        'b': ['a'],
        'c': [{'concat': ['a', 'b']}],
        'deep': ['c'],
        'd': [{'concat': ['a', 'b', 'deep']}],
    }


def test_groups_of_layers(resnet, concat):
    assert resnet.module2group == {
        'stem': 'stem',
        'layer1.conv1': 'layer1.conv1',
        'layer1.conv2': 'stem',
        'layer2.conv1': 'layer2.conv1',
        'layer2.conv2': 'layer2.conv2',
        'layer2.downsample.0': 'layer2.conv2',
    }
    assert concat.module2group == {'a': 'a', 'b': 'b', 'c': 'c', 'deep': 'c'}
    assert set(resnet.module2group.values()) == set(resnet.channel_spaces)


def test_children_and_ancestors(resnet, concat):
    convolutions = {n for n, m in resnet.name2module.items() if isinstance(m, nn.Conv2d)}
    assert resnet.modules_have_child == convolutions
    assert resnet.modules_have_ancest == convolutions - {'stem'} | {'fc'}
    assert concat.modules_have_child == {'a', 'b', 'c', 'deep'}
    assert concat.modules_have_ancest == {'b', 'c', 'deep', 'd'}
    # They keep the order of execution, as in MMRazor.
    assert list(concat.modules_have_child) == ['a', 'b', 'c', 'deep']
    assert list(concat.modules_have_ancest) == ['b', 'c', 'deep', 'd']


def test_norms_are_linked_to_the_convolution_before_them(resnet, concat):
    links = resnet.bn_conv_links
    assert links.pop('layer2.downsample.1') == 'layer2.downsample.0'
    assert links.pop('bn') == 'stem'
    assert links == {
        f'layer{i}.bn{k}': f'layer{i}.conv{k}' for i, k in [(1, 1), (1, 2), (2, 1), (2, 2)]
    }
    assert concat.bn_conv_links == {'free': 'deep'}  # not the norm behind a concatenation


def test_they_say_nothing_else_while_a_subnet_is_set(resnet):
    names = ('node2parents', 'module2group', 'modules_have_child', 'bn_conv_links')
    before = [getattr(resnet, name) for name in names]
    resnet.set_min_channel()
    assert [getattr(resnet, name) for name in names] == before
    resnet.set_max_channel()


def test_a_shared_layer_has_the_parents_of_all_its_calls():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(x), self.head(self.b(x))

    pruner = prepared(Shared())
    assert pruner.node2parents['head'] == ['a', 'b']
    assert pruner.node2parents['b'] == ['a']


@pytest.mark.parametrize('name', ['name2module', 'node2parents', 'bn_conv_links'])
def test_they_are_there_after_preparing_and_cannot_be_set(name, resnet):
    with pytest.raises(AttributeError):
        setattr(resnet, name, {})
    with pytest.raises(RuntimeError, match='prepare_from_supernet'):
        getattr(PRUNERS.build(dict(type='RatioPruner', ratios=[1.0])), name)
