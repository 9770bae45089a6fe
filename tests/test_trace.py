"""The tracer: what it reads off the autograd graph, what it says it could not read."""

import sys
import textwrap

import pytest
import torch
from exactness import IMAGE, assert_exact, conv, prepare
from mmengine.config import Config
from torch import nn

from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES, table
from mmprune.trace import trace
from mmprune.trace.tracer import run_model

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
NOT_ELEMENTWISE = 'CumprodBackward0 MedianBackward1 UnheardOfBackward3'


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
    with pytest.raises(TypeError, match=r'a tensor, a tuple .* or a callable\(model\), found int'):
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


class Summing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6))
        self.summer = Summer()
        self.head = conv(6, 4)

    def forward(self, x):
        return self.head(self.summer(self.inner(x)).sinc())


class Summer(nn.Module):
    def forward(self, x):
        return x.cumprod(dim=1)


def test_an_unknown_operation_is_reported_with_its_module_and_pins_what_reaches_it():
    model, pruner = prepare(Summing())
    assert pruner.supernet.graph.opaque == {
        'CumprodBackward0': ('summer',),
        'SincBackward0': ('',),
    }
    assert list(pruner.channel_spaces) == ['inner.0']
    reason = pruner.channel_groups['inner.2'].reason
    assert reason == 'goes through CumprodBackward0, which mmprune does not know, in summer'
    report = pruner.report()
    assert 'operation without parser: CumprodBackward0 in summer' in report
    assert 'operation without parser: SincBackward0 in the root module' in report
    assert_exact(model, pruner)


OPERATION = '''
    """An operation of one's own: the running product along a dim that holds no channels."""

    from mmprune.channels.rules.arithmetic import without
    from mmprune.channels.labels import Value
    from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES

    @BACKWARD_PARSERS.register_module(name='CumprodBackward')
    def read(grad_fn):
        return 'running_product', {'dim': grad_fn._saved_dim}

    @CHANNEL_RULES.register_module(name='running_product')
    def carry(node, inputs, book):
        value = inputs[0]
        dim = node.attrs['dim'] % len(value.shape)
        return Value(value.shape, without(value, {dim}, book, 'it is multiplied'), value.fixed)
'''


class RunningProduct(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b, self.dim = conv(3, 8), conv(8, 4), dim

    def forward(self, x):
        return self.b(self.a(x).cumprod(self.dim))


def test_an_operation_from_custom_imports_is_used(tmp_path, monkeypatch):
    assert list(prepare(RunningProduct(3))[1].channel_spaces) == []
    (tmp_path / 'my_operation.py').write_text(textwrap.dedent(OPERATION))
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['my_operation'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (BACKWARD_PARSERS, CHANNEL_RULES):
        monkeypatch.setattr(registry, '_module_dict', dict(registry.module_dict))
    Config.fromfile(tmp_path / 'config.py')
    monkeypatch.delitem(sys.modules, 'my_operation')
    model, pruner = prepare(RunningProduct(3))
    assert list(pruner.channel_spaces) == ['a']
    assert_exact(model, pruner)
    model, pruner = prepare(RunningProduct(1))
    assert pruner.channel_groups['a'].reason == 'it is multiplied'
    assert_exact(model, pruner)


def test_what_was_written_to_since_is_not_read():
    """Without gradients a mask may be used, and then written to."""

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.a(x)
            with torch.no_grad():
                rows = torch.ones(4, dtype=torch.bool)
                some = x[:, :, rows].mean()
                rows[0] = False
            return self.b(x) + some

    graph = trace(Chosen(), torch.rand(2, 3, 4, 4))
    assert graph.opaque == {'IndexBackward0': ('',)}
