"""Every road that a user takes is traced, labelled, tried and verified."""

from importlib.util import find_spec

import pytest
import torch
from mmengine.model import BaseModel
from randomised import randomise, scattered
from torch import nn
from toys_roads import IMAGES, TOYS, AuxiliaryHead, DropPath, conv

from mmprune.deploy import compare
from mmprune.errors import InputError
from mmprune.registry import DEMO_INPUTS, PRUNERS
from mmprune.trace import Road, TraceError, trace
from mmprune.trace.calls import tensors_in
from mmprune.trace.chance import without_chance
from mmprune.trace.model_state import untouched
from mmprune.trace.roads import roads_of


@pytest.fixture(autouse=True)
def loss_of_the_toy():
    DEMO_INPUTS.register_module(
        name='LossHeadOfMmengine',
        module=lambda model, images, mode: dict(inputs=images, mode=mode),
    )
    yield
    del DEMO_INPUTS.module_dict['LossHeadOfMmengine']


def prepared(model, demo_input, **options):
    model = randomise(model.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **options))
    pruner.prepare_from_supernet(model, demo_input)
    return model, pruner


def run(model, road):
    """Outputs of two passes on a road, and the gradients of the second; nothing stays."""
    with untouched(model):
        model.train(road.training)
        with without_chance():
            with torch.no_grad():
                before = tensors_in(road.run(model))
            outputs = tensors_in(road.run(model))
            sum(out.square().sum() + out.sum() for out in outputs).backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return [out.detach() for out in (*before, *outputs)], gradients


def cut_like_weights(pruner, model, cfg, values):
    """Numbers of the full parameters, cut as these are; None where there are none."""
    before = [parameter.data for parameter in model.parameters()]
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data = torch.zeros_like(parameter) if value is None else value
    found = [p.detach().clone() for p in pruner.deploy_subnet(model, cfg).parameters()]
    for parameter, data in zip(model.parameters(), before, strict=True):
        parameter.data = data
    return found


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_of_all_roads(toy):
    model, pruner = prepared(toy(), toy.demo_input())
    found = {
        space_id: (group.num_channels, set(group.layers), set(group.consumers))
        for space_id, group in pruner.channel_groups.items()
        if group.prunable
    }
    assert found == toy.GROUPS
    pinned = {name: group.reason for name, group in pruner.channel_groups.items()}
    assert {name for name in pinned if name not in found} == toy.PINNED
    assert tuple(r.name for r in pruner.supernet.graph.roads if r.adds) == toy.ROADS
    assert not pruner.supernet.not_walked()
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    sizes = [sum(p.numel() for p in network.parameters()) for network in (deployed, model)]
    assert sizes[0] < toy.KEPT * sizes[1]


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_exact_on_all_roads(toy, execution):
    """Outputs, gradients and statistics are the same in the supernet and deployed."""
    model, pruner = prepared(toy(), toy.demo_input(), execution=execution)
    for seed in range(2):
        subnet = scattered(pruner, seed)
        pruner.set_subnet(subnet)
        cfg = pruner.export_subnet()
        deployed = pruner.deploy_subnet(model, cfg)
        for road in pruner.supernet.roads():
            (inside, gradients), (outside, theirs) = run(model, road), run(deployed, road)
            close(inside, outside)
            ours = cut_like_weights(pruner, model, cfg, gradients)
            for (name, parameter), mine, other in zip(
                deployed.named_parameters(), ours, theirs, strict=True
            ):
                assert other is not None or not mine.any(), name
                close(mine, torch.zeros_like(parameter) if other is None else other)
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, report
        assert report.roads == tuple(road.name for road in pruner.supernet.roads())
    pruner.set_max_channel()


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_preparing_and_verifying_leave_a_network_as_it_was(toy):
    model = randomise(toy().double()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    state = torch.get_rng_state()
    pruner.prepare_from_supernet(model, toy.demo_input())
    assert pruner.verify_subnet(model, scattered(pruner)).ok
    assert torch.equal(state, torch.get_rng_state())
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert model.training
    assert isinstance(vars(nn.Module).get('training'), type(None))


def test_costs_are_those_of_the_first_road():
    _, pruner = prepared(AuxiliaryHead(), IMAGES)
    plain = randomise(AuxiliaryHead().double())
    first = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    first.prepare_from_supernet(plain, [Road('eval', IMAGES)])
    columns = ('macs', 'traffic', 'peak')
    assert pruner.cost(columns=columns) == first.cost(columns=columns)


def test_lists_of_roads_and_lists_of_arguments():
    image, model = torch.ones(1), nn.Identity()

    def call(model):
        return model(image)

    road = Road('mine', image, training=True)
    assert [r.name for r in roads_of(model, image)] == ['eval', 'train']
    assert [r.input for r in roads_of(model, [image, image])] == [[image, image]] * 2
    found = roads_of(model, [image, call, road])
    assert [(r.name, r.training) for r in found] == [
        ('eval', False), ('train', True), ('eval 2', False), ('train 2', True), ('mine', True),
    ]  # fmt: skip
    assert found[2].input is call
    assert roads_of(model, road) == (road,)
    with pytest.raises(InputError, match="two roads are named 'mine'"):
        roads_of(model, [road, road])


class Body(nn.Sequential):
    """Whose runs are counted, without asking for its mode."""


def layers():
    return [conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(), DropPath(), conv(8, 4)]


def count_runs(model):
    """A trace, and the modes of the runs of the body in it."""
    runs = []
    body = next(module for module in model.modules() if isinstance(module, Body))
    plain = body.forward

    def forward(x):
        runs.append(vars(body)['training'])
        return plain(x)

    type(body).forward = lambda self, x: forward(x)
    try:
        return trace(model.double(), IMAGES), runs
    finally:
        del type(body).forward


def test_training_is_not_traced_where_nobody_asks_for_it():
    """Norms, dropout and stochastic depth say nothing of channels."""
    graph, runs = count_runs(Body(*layers()))
    assert runs == [False]
    assert [(road.name, road.adds) for road in graph.roads] == [('eval', True), ('train', False)]
    graph, runs = count_runs(Body(*layers(), Asking()))
    assert runs == [False, True]


class Asking(nn.Module):
    def forward(self, x):
        return x + 0.5 if self.training else x


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = Body(*layers()), nn.Linear(4, 3)

    def forward(self, inputs, mode='tensor'):
        scores = self.head(self.backbone(inputs).mean((2, 3)))
        return scores if mode == 'tensor' else dict(loss=scores.square().mean())


def test_parts_that_are_known_are_not_run_for_the_loss():
    DEMO_INPUTS.register_module(
        name='Classifier', module=lambda model, images, mode: dict(inputs=images, mode=mode)
    )
    try:
        graph, runs = count_runs(Classifier())
    finally:
        del DEMO_INPUTS.module_dict['Classifier']
    assert runs == [False]
    loss = graph.roads[-1]
    assert (loss.name, loss.adds, loss.problem) == ('loss', False, '')
    assert len(graph.nodes) == graph.roads[0].stop


class Refusing(AuxiliaryHead):
    def forward(self, x):
        if self.training:
            raise NotImplementedError('no training\nhere')
        return super().forward(x)


def test_a_road_that_does_not_run_is_told():
    model, pruner = prepared(Refusing(), IMAGES)
    assert pruner.supernet.not_walked() == {'train': 'NotImplementedError: no training here'}
    report = pruner.report()
    assert 'roads: eval (in eval mode)\n' in report
    assert 'road that could not be walked: train: NotImplementedError: no training here' in report
    assert 'parameters not reached (6): aux.0.weight' in report
    assert 'no road ran its module' in report
    verified = pruner.verify_subnet(model)
    assert verified.ok
    assert verified.roads == ('eval',)
    assert 'train could not be walked: NotImplementedError' in str(verified)
    with pytest.raises(TraceError, match='no training'):
        prepared(Refusing(), [Road('train', IMAGES, training=True)])


class RefusesSmallBatches(AuxiliaryHead):
    """It can be traced on one image, and not run on it in training."""

    def forward(self, x):
        if self.training and len(x) < 2 and not x.requires_grad:
            raise ValueError('give two')
        return super().forward(x)


@pytest.mark.parametrize('callable_input', [False, True])
def test_a_road_that_fails_at_full_width_is_not_blamed_on_a_subnet(callable_input):
    image = IMAGES[:1]
    data = [image, lambda model: model(image)] if callable_input else image
    model, pruner = prepared(RefusesSmallBatches(), data)
    verified = pruner.verify_subnet(model)
    assert verified.ok, verified
    if callable_input:
        assert verified.roads == ('eval', 'train', 'eval 2')
        assert dict(verified.not_walked) == {'train 2': 'ValueError: give two'}
    else:
        assert verified.roads == ('eval', 'train')
    groups = {n for n, group in pruner.channel_groups.items() if group.prunable}
    assert groups == {'a', 'b', 'aux.0'}


def test_the_first_road_may_be_training():
    model, pruner = prepared(AuxiliaryHead(), Road('train', IMAGES, training=True))
    assert pruner.channel_groups['aux.0'].prunable
    assert pruner.verify_subnet(model).roads == ('train',)


class OneStep(nn.Module):
    """Something that only training does, in a module of its own."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.register_buffer('steps', torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.steps += self.factor
            return x * 2
        return x


def test_what_training_alone_does_is_compared():
    def network(factor, scale=1.0):
        torch.manual_seed(0)
        model = nn.Sequential(conv(3, 4), OneStep(factor), nn.Flatten()).double()
        model[0].weight.data *= scale
        return model

    road = Road('train', IMAGES, training=True)
    assert compare(network(1.0), network(1.0), road, lambda: network(0)).problem.endswith(
        '1.steps.'
    )
    same = network(1.0)
    assert compare(network(1.0), same, IMAGES).ok
    report = compare(network(1.0), network(1.0, 1.1), road)
    assert (report.ok, report.road) == (False, 'train')
    assert "part at '0' on the road train" in str(report)
    assert not same[1].steps.any()


def test_without_chance_random_numbers_are_the_same_at_every_width():
    with without_chance():
        x = torch.full((2, 3), 2.0)
        for drop in (nn.Dropout(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.RReLU(0.2, 0.4)):
            assert torch.equal(drop(x), x), drop
        assert torch.equal(torch.bernoulli(torch.full((3,), 0.2)), torch.ones(3))
        assert (torch.rand(3) == torch.rand(5)[0]).all()
        assert (torch.randn_like(x) == torch.randn(1)).all()
        assert (torch.empty(3).uniform_(2, 4) == torch.empty(1).uniform_(2, 4)).all()
        assert (torch.empty(3).normal_(mean=1.0, std=2.0) == 2).all()
        attention = nn.MultiheadAttention(4, 2, dropout=0.9)
        tokens = torch.rand(3, 1, 4)
        first = attention(tokens, tokens, tokens, need_weights=False)[0]
        torch.testing.assert_close(first, attention(tokens, tokens, tokens, need_weights=False)[0])
        torch.testing.assert_close(first, attention.eval()(tokens, tokens, tokens)[0])
        lstm = nn.LSTM(4, 4, 2, dropout=0.9)
        torch.testing.assert_close(lstm(tokens)[0], lstm.eval()(tokens)[0])
    assert not torch.equal(torch.rand(3), torch.rand(3))


@pytest.mark.skipif(find_spec('mmcls') is None, reason='needs mmcls')
def test_the_auxiliary_logits_of_a_network_of_mmcls():
    from mmcls.registry import MODELS

    config = dict(
        type='ImageClassifier',
        backbone=dict(type='InceptionV3', num_classes=10, aux_logits=True),
        head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
    )
    torch.manual_seed(0)
    model = MODELS.build(config).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.rand(1, 3, 299, 299))
    assert pruner.channel_groups['backbone.AuxLogits.conv0.conv'].prunable
    pruner.set_min_channel()
    report = pruner.verify_subnet(model, pruner.current_subnet())
    assert report.ok, report
    assert report.roads == ('eval', 'train', 'loss')
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    assert sum(p.numel() for p in small.parameters()) < 0.26 * sum(
        p.numel() for p in model.parameters()
    )


class Segmenter(nn.Module):
    """A head that runs in mode 'loss' only, as OpenMMLab's auxiliary heads do."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 1)
        self.auxiliary_head = nn.Conv2d(16, 2, 1)

    def forward(self, x, mode='tensor'):
        x = self.backbone(x)
        if mode == 'tensor':
            return self.head(x)
        return self.head(x).sum() + self.auxiliary_head(x).sum()


def test_a_forward_that_has_a_mode_is_walked_to_its_loss():
    model = randomise(Segmenter().double())
    data = torch.rand(1, 3, 8, 8).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, data)
    pruner.set_min_channel()
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert deployed.auxiliary_head.in_channels == 8
    torch.testing.assert_close(deployed(data, mode='loss'), model(data, mode='loss'))
    assert pruner.verify_subnet().roads[-1] == 'loss'


class Unwalked(nn.Module):
    """One more way through it that nobody tells of, and a layer that nothing uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 4, 1)
        self.heads = nn.ModuleList([nn.Sequential(nn.ReLU(), nn.Conv2d(16, 5, 1))])
        self.dead = nn.Conv2d(32, 5, 1)

    def forward(self, x):
        return self.head(self.b(self.a(x)))

    def embed(self, x):
        return [head(self.a(x)) for head in self.heads]


def test_what_a_road_that_nobody_has_told_of_may_read_stays():
    model, data = randomise(Unwalked().double()), torch.rand(2, 3, 8, 8).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, data)
    reasons = {name: group.reason for name, group in pruner.channel_groups.items()}
    assert reasons['a'] == 'heads.0, which no road runs, may read them: give a road that does'
    assert not reasons['b']
    pruner.set_min_channel()
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    torch.testing.assert_close(deployed.embed(data), model.embed(data))
    # With that road, they are cut together.
    told = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    roads = [lambda network: network(data), lambda network: network.embed(data)]
    told.prepare_from_supernet(randomise(Unwalked().double()), roads)
    assert not told.channel_groups['a'].reason


class Recurrence(nn.Module):
    """Two layers with a state that begins as a constant, and dropout between them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            state = torch.zeros(x.shape, dtype=x.dtype)
            for _ in range(2):
                state = torch.tanh(layer(x) + state)
            x = x + 1 if self.training else x
            x = layer(x) * state
        return self.head(x)


def test_a_constant_of_several_roads_is_as_wide_as_on_the_first():
    model, data = randomise(Recurrence().double()), torch.rand(2, 3, 8, 8).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, data)
    assert list(pruner.channel_spaces) == ['stem']
    report = pruner.verify_subnet()
    assert report.ok, report
    assert report.roads == ('eval', 'train')
