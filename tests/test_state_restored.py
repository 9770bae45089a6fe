"""Preparing a network changes nothing about it that is not said, and a failed try nothing."""

import collections
import contextlib
import copy
import random

import numpy as np
import pytest
import torch
from randomised import scattered
from torch import nn

from mmprune.execution import release
from mmprune.registry import PRUNERS
from mmprune.trace import TraceError, trace
from mmprune.trace.model_state import untouched
from mmprune.trace.walk import forget_walks, modules_of, walked_once


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Restless(nn.Module):
    """A forward pass that leaves traces everywhere, and then may fail."""

    def __init__(self, ending='return'):
        super().__init__()
        self.ending = ending
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)
        self.dropout = nn.Dropout(0.5)
        self.norm.weight.requires_grad_(False)
        self.cache, self.listed, self.numbers = {}, [1], {1, 2}
        self.nested = {'inner': {'deep': [torch.zeros(2)]}, 'pair': (torch.zeros(1), [0])}
        self.ordered = collections.OrderedDict(first=1, second=2)
        self.recent = collections.deque([1], maxlen=2)
        self.counted = collections.defaultdict(int)
        self.tensor, self.array, self.nothing = torch.zeros(2), np.zeros(2), None
        self.register_buffer('empty', None)
        self.register_buffer('calls', torch.zeros(()))
        self.register_buffer('silent', torch.zeros(3), persistent=False)
        self.norm.eval()

    def forward(self, x):
        self.cache['x'] = x
        self.listed += [x]
        self.numbers.add(3)
        self.nested['inner']['deep'][0].add_(1)
        self.nested['inner']['more'] = 1
        self.nested['pair'][1].append(1)
        self.ordered.move_to_end('first')
        self.recent.extend([2, 3])
        self.counted['calls'] += 1
        self.tensor += 1
        self.array += 1
        self.nothing = self.tensor
        self.empty = torch.ones(3)
        self.calls += 1
        self.silent.data.add_(1)  # a write that no version counter sees
        self.register_buffer('late', torch.ones(1))
        self.grown = conv(1, 1)
        self.a.weight.data.mul_(2)
        self.b.bias.data = torch.ones(4)
        self.a.weight.requires_grad_(False)
        self.train()
        self.register_forward_hook(lambda *_: None)
        for draw in (lambda: torch.rand(3), lambda: np.random.rand(3), random.random):
            draw()
        if self.ending == 'fail':
            raise RuntimeError('on purpose')
        self.a.weight.requires_grad_(True)
        y = self.b(self.dropout(self.norm(self.a(x))))
        return y.detach() if self.ending == 'detach' else y


def frozen_copy(value):
    """``value`` in a form that can be compared later: contents, and identity of what is inside."""
    if isinstance(value, torch.Tensor):
        return ('tensor', id(value), value.data_ptr(), value.detach().clone().tolist())
    if isinstance(value, np.ndarray):
        return ('array', id(value), value.tolist())
    if isinstance(value, dict):
        return (type(value).__name__, id(value), [(k, frozen_copy(v)) for k, v in value.items()])
    if isinstance(value, list | tuple | set | collections.deque):
        return (type(value).__name__, id(value), [frozen_copy(v) for v in value])
    return (type(value).__name__, id(value))


def state_of(model):
    return {
        name: (frozen_copy(module.__dict__), type(module)) for name, module in model.named_modules()
    } | {
        'flags': [(n, id(p), p.requires_grad, id(p.grad)) for n, p in model.named_parameters()],
        'torch': torch.get_rng_state().tolist(),
        'numpy': (np.random.get_state()[1].tolist(), np.random.get_state()[2]),
        'python': random.getstate(),
    }


def restless(ending='return'):
    model = Restless(ending)
    model.b.weight.grad = torch.full_like(model.b.weight, 0.5)
    return model, torch.randn(2, 3, 6, 6)


def test_tracing_leaves_everything_as_it_was():
    model, data = restless()
    before = state_of(model)
    graph = trace(model, data)
    assert state_of(model) == before
    assert {'a.weight', 'norm.weight', 'b.bias'} <= set(graph.parameters)
    assert not data.requires_grad


def test_the_test_network_does_change_itself():
    """Without protection every kind of state differs afterwards, so the tests above can fail."""
    model, data = restless()
    before = state_of(model)
    model(data)
    after = state_of(model)
    for key in ('', 'a', 'b', 'norm', 'torch', 'numpy', 'python', 'flags'):
        assert after[key] != before[key], key


@pytest.mark.parametrize('ending', ['fail', 'detach'])
def test_a_failed_preparation_leaves_everything_as_it_was(ending):
    model, data = restless(ending)
    before = state_of(model)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    message = {'fail': "failed in module ''.*accepts", 'detach': 'nothing to trace'}[ending]
    with pytest.raises(TraceError, match=message):
        pruner.prepare_from_supernet(model, data)
    assert state_of(model) == before
    with pytest.raises(RuntimeError, match='call prepare_from_supernet'):
        _ = pruner.channel_spaces


def test_a_failed_trace_names_the_module_the_input_and_the_error():
    model = nn.Sequential(nn.Sequential(conv(3, 4), conv(5, 4)))
    with pytest.raises(TraceError) as caught:
        trace(model, torch.randn(2, 3, 8, 8))
    for part in ("'0.1'", '2x3x8x8', 'torch.float32', 'expected input', 'demo_input'):
        assert part in str(caught.value), part


@pytest.mark.parametrize('ending', ['return', 'fail'])
def test_untouched_restores_on_every_way_out(ending):
    model, data = restless(ending)
    before = state_of(model)
    with contextlib.suppress(RuntimeError), untouched(model):
        model(data)
        model.b = None
        model.double()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    assert state_of(model) == before


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


def test_preparing_adds_masks_and_patched_forwards_and_nothing_else():
    model = Plain().train()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    values = {name: (id(p), p.data_ptr(), p.clone()) for name, p in model.state_dict().items()}
    flags = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, torch.randn(2, 3, 6, 6))
    for name, module in model.named_modules():
        assert set(module.__dict__) - before[name] <= {'forward', 'train', '_mmprune'}, name
    state = model.state_dict()
    for name, (_, pointer, value) in values.items():
        assert state.pop(name).data_ptr() == pointer, name
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert {name.rpartition('.')[2] for name in state} == {'in_mask', 'out_mask'}
    assert all((mask == 1).all() for mask in state.values())
    assert {n: (id(p), p.requires_grad) for n, p in model.named_parameters()} == flags
    assert [module.training for module in (model, model.a, model.norm)] == [True, True, False]


def test_the_optimizer_of_a_running_training_keeps_its_parameters():
    model, data = Plain(), torch.randn(2, 3, 6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(data).square().mean().backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters()]
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    pruner.set_min_channel()
    pairs = zip(optimizer.param_groups[0]['params'], model.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    before = model.a.weight.clone()
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()
    assert (model.a.weight != before)[:4].any()
    assert set(optimizer.state) == set(model.parameters())


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_a_model_can_be_prepared_inside_inference_code(context):
    model, data = Plain(), torch.randn(2, 3, 6, 6)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    with context():
        pruner.prepare_from_supernet(model, torch.randn(2, 3, 6, 6))
        pruner.set_min_channel()
        inside = model.eval()(data)
    assert list(pruner.channel_spaces) == ['a']
    torch.testing.assert_close(model(data), inside, rtol=0, atol=0)
    model.train()(data).sum().backward()
    assert model.a.weight.grad[:4].abs().sum() > 0
    pruner.verify_subnet(model)


def test_models_that_autograd_cannot_follow_are_refused_by_name():
    data = torch.randn(2, 3, 6, 6)
    with torch.inference_mode():
        made_inside = Plain()
    with pytest.raises(TraceError, match=r"'a\.weight' of Plain was made in inference mode"):
        trace(made_inside, data)
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyConv2d(4, 3))
    with pytest.raises(TraceError, match=r"'0\.weight' of Sequential has no shape yet.*run the"):
        trace(lazy, data)
    assert isinstance(lazy[0], nn.LazyConv2d)


def test_integer_parameters_are_left_alone():
    model = Plain()
    model.table = nn.Parameter(torch.arange(3), requires_grad=False)
    graph = trace(model, torch.randn(1, 3, 6, 6))
    assert 'table' in graph.unreached
    assert not model.table.requires_grad


class Caching(nn.Module):
    """Computes something from its weights once in eval mode."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)
        self.shift, self.cache = nn.Parameter(torch.randn(1, 8, 1, 1)), {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.cache = {}
            self.a.weight.requires_grad_(True)  # as networks that freeze and thaw their stages
        return self

    def forward(self, x):
        if self.training:
            return self.b(self.a(x) + self.shift * 2)
        if 'shift' not in self.cache:
            self.cache['shift'] = self.shift * 2
        return self.b(self.a(x) + self.cache['shift'])


class Precomputing(Caching):
    """Computes it as soon as eval mode is set, as LeViT and EfficientFormer do."""

    @torch.no_grad()
    def train(self, mode=True):
        super().train(mode)
        if not mode:
            self.cache = {'shift': self.shift * 2}
        return self


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('kind', [Caching, Precomputing])
@pytest.mark.parametrize('ran_before', [False, True])
def test_caches_have_the_width_that_is_set(execution, kind, ran_before):
    model, data = kind().double().eval(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    model.a.weight.requires_grad_(False)
    expected = copy.deepcopy(model)(data)
    if ran_before:
        model(data)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, data)
    assert list(pruner.channel_spaces) == ['a']
    for seed in range(3):
        model.a.weight.requires_grad_(False)
        pruner.set_subnet(scattered(pruner, seed))
        inside = model(data)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        torch.testing.assert_close(deployed(data), inside, rtol=1e-10, atol=1e-12)
        assert pruner.verify_subnet(model).ok
        assert not model.a.weight.requires_grad
        model.train()
        torch.testing.assert_close(model(data), inside, rtol=1e-10, atol=1e-12)
        model.eval()
        torch.testing.assert_close(model(data), inside, rtol=1e-10, atol=1e-12)
        pruner.set_max_channel()
        torch.testing.assert_close(model(data), expected, rtol=1e-12, atol=1e-14)
    assert not model.training
    release(model)
    assert 'train' not in vars(model)
    torch.testing.assert_close(model(data), expected, rtol=1e-12, atol=1e-14)


def test_deploying_a_plain_network_that_has_run():
    model, data = Caching().double().eval(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    pruner.set_min_channel()
    cfg, inside = pruner.export_subnet(), model(data)
    plain = Caching().double().eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'mask' not in k})
    plain(data)
    held = plain.cache['shift']
    deployed = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0])).deploy_subnet(plain, cfg)
    torch.testing.assert_close(deployed(data), inside, rtol=1e-12, atol=1e-14)
    assert plain.cache['shift'] is held


# -- walks -----------------------------------------------------------------------------


def test_modules_are_walked_through_once_until_code_of_theirs_has_run():
    model = nn.Sequential(conv(3, 8))
    with walked_once():
        known = modules_of(model)
        known.clear()  # what is given out is the caller's own
        assert list(modules_of(model)) == ['', '0']
        model.append(conv(8, 4))
        assert list(modules_of(model)) == ['', '0']
        forget_walks()
        assert list(modules_of(model)) == ['', '0', '1']
    model.append(conv(4, 4))
    assert list(modules_of(model)) == ['', '0', '1', '2']


class MakesItsPartsLate(nn.Module):
    """The first forward makes a layer, and one in training another."""

    def __init__(self):
        super().__init__()
        self.a = conv(3, 8)

    def forward(self, x):
        if not hasattr(self, 'b'):
            torch.manual_seed(0)
            self.b = conv(8, 6).to(x)
        if self.training and not hasattr(self, 'c'):
            self.c = conv(6, 6).to(x)
        x = self.b(self.a(x).relu()).relu()
        return self.c(x) if self.training else x


def test_a_network_that_makes_layers_in_its_forward_is_as_it_was():
    model = MakesItsPartsLate().double()
    graph = trace(model, torch.rand(1, 3, 4, 4, dtype=torch.float64))
    assert list(model._modules) == ['a']
    with walked_once():
        again = trace(model, torch.rand(1, 3, 4, 4, dtype=torch.float64))
        assert list(modules_of(model)) == ['', 'a']
    assert str(again) == str(graph)
