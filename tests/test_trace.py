"""The tracer: what it reads off the autograd graph, what it says it could not read."""

import sys
import textwrap
import warnings

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from randomised import randomise, scattered
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES, PRUNERS, table
from mmprune.trace import TraceError, trace
from mmprune.trace.tracer import run_model, tensors_in

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

# Kinds of node of 61 networks of mmcls, as autograd names them without `Backward0`.
KINDS = """
    Addmm T View Convolution Add Mean1 NativeBatchNorm Relu Mul Gelu Clone Transpose Permute
    NativeLayerNorm MaxPool2DWithIndices UnsafeView ReshapeAlias Softmax Bmm Expand Cat Select
    AvgPool2D Unsqueeze Mm Div ConstantPadNd Split Sigmoid Slice Squeeze1 CopySlices SplitWithSizes
    Sub Im2Col Index AsStrided UpsampleNearest2D LinalgVectorNorm Hardswish Clamp1 ClampMin Sqrt Pow
    FftC2R ViewAsComplex FftR2C Hardtanh UpsampleBilinear2D Unbind CopyBackwards Alias
    NativeGroupNorm Sum1 Pow1 Reciprocal Roll Max
"""
# Names that other devices and versions of torch have for some of them.
ALIASES = """
    ThnnConv2DBackward MkldnnConvolutionBackward CudnnConvolutionBackward ToCopyBackward0
    CudnnBatchNormBackward0 PreluKernelBackward0 ScaledDotProductFlashAttentionBackward0
    ScaledDotProductEfficientAttentionBackward0 ScaledDotProductFlashAttentionForCpuBackward0
"""
NOT_ELEMENTWISE = 'CumsumBackward0 SortBackward0 GatherBackward0 FlashBackward0 UnheardOfBackward3'


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


def prepare(model, data=IMAGE, **kwargs):
    model = randomise(model.double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **kwargs))
    pruner.prepare_from_supernet(model, data)
    return model, pruner


def assert_exact(model, pruner, data=IMAGE):
    """Sliced, masked and deployed agree for several subnets, no matter what is pinned."""
    for seed in range(3):
        subnet = scattered(pruner, seed)
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, report
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        with torch.no_grad():
            pairs = zip(tensors_in(model(data)), tensors_in(deployed(data)), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    pruner.set_max_channel()


# -- reading ---------------------------------------------------------------------------


class Readable(nn.Module):
    """Operations whose nodes carry numbers that a parser has to read."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8, groups=2)
        self.norm2, self.up = nn.GroupNorm(4, 8), nn.ConvTranspose2d(8, 6, 2)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = self.norm(self.a(x))
        _, second = x.split(4, dim=-3)
        x = self.norm2(self.b(torch.cat([second, second], dim=-3)))
        return self.fc(self.up(x).transpose(1, -1)[..., :5])


def test_nodes_carry_what_their_rules_need():
    graph = trace(Readable().double(), IMAGE)
    nodes = {}
    for node in graph.nodes:
        nodes.setdefault(node.op, []).append(node)
    assert nodes['cat'][0].attrs == {'dim': -3}
    assert nodes['split'][0].attrs == {'dim': -3}
    assert [edge[1] for edge in nodes['cat'][0].inputs] == [1, 1]  # the second half, twice
    first, grouped, transposed = nodes['conv']
    assert (first.attrs['groups'], first.attrs['transposed']) == (1, False)
    assert (grouped.attrs['groups'], grouped.attrs['transposed']) == (2, False)
    assert transposed.attrs['transposed']
    parameters = {node.id: node.attrs['name'] for node in nodes['parameter']}
    assert [parameters[edge[0]] for edge in grouped.inputs[1:]] == ['b.weight', 'b.bias']
    assert nodes['batch_norm'][0].attrs['buffers'] == ('norm.running_mean', 'norm.running_var')
    assert nodes['group_norm'][0].attrs['groups'] == 4
    modules = [node.module for node in (first, nodes['batch_norm'][0], grouped, transposed)]
    assert modules == ['a', 'norm', 'b', 'up']
    assert nodes['cat'][0].module == ''
    assert {node.module for node in graph.nodes if node.op in ('addmm', 'matmul')} == {'fc'}


def test_the_graph_is_in_order_and_complete():
    model = Readable().double()
    graph = trace(model, IMAGE)
    assert [node.id for node in graph.nodes] == list(range(len(graph.nodes)))
    for node in graph.nodes:
        assert all(edge is None or edge[0] < node.id for edge in node.inputs)
        assert node.op in ('parameter', 'input') or node.op in table(CHANNEL_RULES), node.op
    assert graph.parameters == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert [graph.nodes[edge[0]].shapes[edge[1]] for edge in graph.outputs] == [(2, 9, 9, 4)]
    assert (graph.unreached, graph.opaque, graph.escapes) == ({}, {}, ())


def test_the_graph_prints_a_line_per_node():
    text = str(trace(Readable().double(), IMAGE))
    lines = text.splitlines()
    assert lines[0] == f'TraceGraph: {len(lines) - 1} nodes, 12 parameters'
    (line,) = [line for line in lines if ' = cat(' in line]
    number = line.split('cat(%')[1].split(',')[0]
    assert f'= cat(%{number}, %{number}) -> 2x8x8x8  [CatBackward0 in the root module]' in line
    assert any(' = batch_norm(' in line and 'in norm]' in line for line in lines)


def test_tied_parameters_are_read_once_with_all_their_names():
    model = nn.Sequential(conv(3, 3), conv(3, 3))
    model[1].weight = model[0].weight
    graph = trace(model.double(), IMAGE)
    assert graph.aliases == {'0.weight': ('0.weight', '1.weight')}
    assert set(graph.parameters) == {'0.weight', '0.bias', '1.bias'}
    assert graph.consumers()['0.weight'] == ['0', '1']


# -- inputs ----------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)

    def forward(self, image, scale=None):
        image = self.a(image)
        return {'out': [self.b(image if scale is None else image * scale)]}


SCALE = torch.tensor(2.0, dtype=torch.float64)


@pytest.mark.parametrize(
    'data',
    [
        IMAGE,
        (IMAGE,),
        [IMAGE, SCALE],
        {'image': IMAGE},
        {'image': IMAGE, 'scale': SCALE},
        lambda model: model(IMAGE, scale=SCALE),
        lambda model: model(IMAGE)['out'],
    ],
    ids=['tensor', 'tuple', 'list', 'dict', 'dict of two', 'callable', 'callable with any result'],
)
def test_any_kind_of_demo_input(data):
    model, pruner = prepare(TwoInputs(), data)
    assert list(pruner.channel_spaces) == ['a']
    assert pruner.verify_subnet(model).ok
    assert not IMAGE.requires_grad


def test_a_demo_input_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r'a tensor, a tuple .* or a callable\(model\), not int'):
        run_model(TwoInputs(), 3)


def test_integer_inputs_are_passed_on():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(6, 4))
    tokens = torch.arange(6).reshape(2, 3)
    model, pruner = prepare(model, tokens)
    assert '1' in pruner.channel_spaces
    assert_exact(model, pruner, tokens)


def test_the_model_is_traced_in_eval_mode():
    model = nn.Sequential(conv(3, 8), nn.Dropout(0.5), nn.BatchNorm2d(8), conv(8, 4)).train()
    graph = trace(model.double(), IMAGE)
    assert 'dropout' not in str(graph).lower()
    assert all(module.training for module in model.modules())
    first, second = (str(trace(model, IMAGE)) for _ in range(2))
    assert first == second


def test_autocast_puts_casts_between_that_change_nothing():
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4), nn.Linear(8, 4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        graph = trace(model, IMAGE.float())
    assert 'ToCopyBackward0' in str(graph)
    assert graph.opaque == {}
    assert set(graph.parameters) == {name for name, _ in model.named_parameters()}


# -- parsers ---------------------------------------------------------------------------


def parsers_name(kind):
    """``MeanBackward1`` for ``Mean1``, ``ReluBackward0`` for ``Relu``."""
    if kind in ('CopySlices', 'CopyBackwards'):
        return kind
    is_numbered = kind[-1].isdigit()
    return f'{kind[:-1]}Backward{kind[-1]}' if is_numbered else f'{kind}Backward0'


def has_parser(name):
    known = table(BACKWARD_PARSERS)
    return name in known or name.rstrip('0123456789') in known


@pytest.mark.parametrize('name', [parsers_name(kind) for kind in KINDS.split()] + ALIASES.split())
def test_every_kind_of_node_of_mmcls_has_a_parser(name):
    assert has_parser(name)


@pytest.mark.parametrize('name', NOT_ELEMENTWISE.split())
def test_what_nobody_taught_has_none(name):
    assert not has_parser(name)


def test_parsers_are_found_by_their_full_name_first(monkeypatch):
    def special(grad_fn):
        return 'special', {}

    monkeypatch.setitem(BACKWARD_PARSERS.module_dict, 'MeanBackward1', special)
    model = nn.Sequential(conv(3, 4), nn.Flatten())
    model.forward = lambda x: nn.Sequential.forward(model, x).mean(1) + model[0](x).mean()
    found = {n.source: n.op for n in trace(model.double(), IMAGE).nodes if 'Mean' in n.source}
    assert found == {'MeanBackward0': 'reduce', 'MeanBackward1': 'special'}


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6))
        self.sorter = Sorter()
        self.head = conv(6, 4)

    def forward(self, x):
        return self.head(self.sorter(self.inner(x)).cumprod(-1))


class Sorter(nn.Module):
    def forward(self, x):
        return x.sort(dim=1)[0]


def test_an_unknown_operation_is_reported_with_its_module_and_pins_what_reaches_it():
    model, pruner = prepare(Sorting())
    assert pruner.supernet.graph.opaque == {
        'SortBackward0': ('sorter',),
        'CumprodBackward0': ('',),
    }
    assert list(pruner.channel_spaces) == ['inner.0']
    reason = pruner.channel_groups['inner.2'].reason
    assert reason == 'goes through SortBackward0, which mmprune does not know, in sorter'
    report = pruner.report()
    assert 'operation without parser: SortBackward0 in sorter' in report
    assert 'operation without parser: CumprodBackward0 in the root module' in report
    assert_exact(model, pruner)


OPERATION = '''
    """An operation of one's own: the running sum along a dim that holds no channels."""

    from mmprune.channels.rules.arithmetic import without
    from mmprune.channels.labels import Value
    from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES

    @BACKWARD_PARSERS.register_module(name='CumsumBackward')
    def read(grad_fn):
        return 'running_sum', {'dim': grad_fn._saved_dim}

    @CHANNEL_RULES.register_module(name='running_sum')
    def carry(node, inputs, book):
        value = inputs[0]
        dim = node.attrs['dim'] % len(value.shape)
        return Value(value.shape, without(value, {dim}, book, 'it is summed up'), value.fixed)
'''


class RunningSum(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b, self.dim = conv(3, 8), conv(8, 4), dim

    def forward(self, x):
        return self.b(self.a(x).cumsum(self.dim))


def test_an_operation_from_custom_imports_is_used(tmp_path, monkeypatch):
    assert list(prepare(RunningSum(3))[1].channel_spaces) == []
    (tmp_path / 'my_operation.py').write_text(textwrap.dedent(OPERATION))
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['my_operation'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (BACKWARD_PARSERS, CHANNEL_RULES):
        monkeypatch.setattr(registry, '_module_dict', dict(registry.module_dict))
    Config.fromfile(tmp_path / 'config.py')
    monkeypatch.delitem(sys.modules, 'my_operation')
    model, pruner = prepare(RunningSum(3))
    assert list(pruner.channel_spaces) == ['a']
    assert_exact(model, pruner)
    model, pruner = prepare(RunningSum(1))
    assert pruner.channel_groups['a'].reason == 'it is summed up'
    assert_exact(model, pruner)


# -- what the graph does not show ------------------------------------------------------


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


def under_no_grad(function):
    def run(net, x):
        with torch.no_grad():
            y = function(net, x)
        return net.d(x), y

    return run


# What a network does, and what it pins besides its output: {space_id: part of the reason}.
OUTSIDE = {
    'detach': (lambda net, x: (net.d(x), net.b(x.detach())), {'a': 'detach in the root module'}),
    'data': (lambda net, x: (net.d(x), net.b(x.data)), {'a': 'data in the root module'}),
    'detach, then more': (
        lambda net, x: (net.d(x), net.b(F.relu(x.detach()) * 2)),
        {'a': 'detach in the root module'},
    ),
    'detach what nothing else reads': (
        lambda net, x: net.d(net.c(F.relu(net.b(x)).detach()) + x),
        {'b': 'detach in the root module'},
    ),
    'detached output': (lambda net, x: (net.d(x), x.detach()), {'a': 'detach in the root module'}),
    'no_grad': (under_no_grad(lambda net, x: net.b(x)), {'a': 'conv2d in b'}),
    'no_grad, then a layer': (
        under_no_grad(lambda net, x: net.b(F.relu(x))),
        {'a': 'relu in the root module'},
    ),
    'comparison': (
        lambda net, x: net.d(torch.where(x > 0, net.b(x), net.c(x))),
        {'a': 'gt in the root module', 'b': 'a constant'},
    ),
    'masked fill': (
        lambda net, x: net.d(net.b(x).masked_fill(x > 0, 0.5)),
        {'a': 'gt in the root module', 'b': 'a constant'},
    ),
    'argmax': (
        lambda net, x: net.d(net.b(x) * x.argmax(1, keepdim=True)),
        {'a': 'argmax in the root module'},
    ),
    'a number': (
        lambda net, x: net.d(net.b(x) * float(x.flatten(1)[0, 5])),
        {'a': 'takes channels by their number'},
    ),
    'ones_like': (
        lambda net, x: net.d(net.b(x) + torch.ones_like(x)),
        {'a': 'ones_like in the root module', 'b': 'a constant'},
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
    pinned = {s: why for s, why in reasons.items() if why and why != 'output of the network'}
    if expected is not None:
        assert pinned.keys() == expected.keys()
        for space_id, part in expected.items():
            assert part in pinned[space_id], pinned[space_id]
    assert_exact(model, pruner)


def test_unreached_parameters_are_reported():
    def skip_b(net, x):
        with torch.no_grad():
            y = net.b(x)
        return net.d(x), y

    model, pruner = prepare(Branch(skip_b))
    unreached = pruner.supernet.graph.unreached
    assert set(unreached) == {'b.weight', 'b.bias', 'c.weight', 'c.bias'}
    assert all('no_grad' in why and 'detached' in why for why in unreached.values())
    assert (
        'parameters not reached (4): b.weight, b.bias, c.weight, c.bias: not part'
        in pruner.report()
    )
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


@pytest.mark.parametrize(('use_reentrant', 'prunable'), [(False, ['a', 'b.0']), (True, [])])
def test_activation_checkpointing(use_reentrant, prunable):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='None of the inputs have requires_grad')
        model, pruner = prepare(Checkpointed(use_reentrant))
        assert list(pruner.channel_spaces) == prunable
        if use_reentrant:
            graph = pruner.supernet.graph
            assert set(graph.unreached) == {n for n, _ in model.named_parameters() if n[0] == 'b'}
            assert 'CheckpointFunctionBackward' in graph.opaque
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
        (lambda net, x: net.d(x).detach(), 'does not depend on any of its parameters'),
        (lambda net, x: 3, 'does not depend on any of its parameters'),
        (lambda net, x: net.b(net.d(x)), "in module 'b'"),
    ],
)
def test_models_without_a_graph_are_refused(forward, message):
    with pytest.raises(TraceError, match=message):
        trace(Branch(forward).double(), IMAGE)
