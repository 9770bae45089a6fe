"""Latency tables with times that a test can predict, their files, and what is told of widths."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruned_network import IMAGE, build, conv
from randomised import randomise, scattered
from torch import nn

from mmprune.cost import CostError
from mmprune.errors import InputError
from mmprune.latency import (
    Correction,
    Device,
    LatencyError,
    LatencyEstimator,
    LatencyTable,
    TableLatency,
    Times,
    build_table,
    building,
    data_of,
    interleaved,
    widths_of_groups,
)
from mmprune.latency.device import processor
from mmprune.latency.estimator import evaluate, layer_forms
from mmprune.latency.rounding import (
    RoundingReport,
    WidthTimes,
    heaviest,
    measure_rounding,
    neighbours,
    rounding_rows,
)
from mmprune.latency.shapes import LayerShape, shape_of


class Network(nn.Module):
    """A residual sum, a concatenation, grouped and depthwise convolutions, three kinds of norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = conv(3, 8), nn.BatchNorm2d(8)
        self.left, self.right, self.join = conv(8, 6), conv(8, 8), conv(14, 12, 1)
        self.grouped, self.group_norm = conv(12, 12, groups=2), nn.GroupNorm(4, 12)
        self.wide, self.deep = conv(12, 16), conv(16, 16, groups=16)
        self.fc, self.layer_norm, self.head = nn.Linear(16, 10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = self.join(torch.cat([self.left(x), x + self.right(x)], 1))
        x = F.relu(self.group_norm(self.grouped(F.relu(x))))
        x = self.deep(self.wide(x)).mean((2, 3))
        return self.head(F.relu(self.layer_norm(self.fc(x))))


DATA = IMAGE.float()
DEVICE = Device('cpu', 'a test', 1, '2.0', 'Linux')


def fake_seconds(module, example, device):
    """Microseconds: a hundred, and one for every hundred multiply-adds or elements."""
    output = module(example)
    macs = output.numel() * (module.weight[0].numel() if module.weight.dim() > 1 else 1)
    return 1e-6 * (100 + macs / 100)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(building, '_once', fake_seconds)
    monkeypatch.setattr(building, 'MOST_ROUNDS', 1)


def built(network=None, shares=(0.5, 1.0)):
    """A network, that with layers of every kind if None, its pruner, and the table of it."""
    model, pruner = randomise(network or Network()).eval(), build()
    pruner.prepare_from_supernet(model, DATA)
    plain = pruner.deploy_subnet(model, pruner.export_subnet())
    table = build_table(plain, pruner.supernet, lambda network: network(DATA), shares=shares)
    return pruner, table


def test_the_table_predicts_what_the_deployed_layers_take(fake):
    """The fake times are bilinear in the widths, so the interpolation is exact, and beyond."""
    pruner, table = built()
    called = 'stem stem_norm left right join grouped group_norm wide deep fc layer_norm head'
    assert [name for name, _ in table.calls] == called.split()
    estimator = LatencyEstimator(table, pruner.supernet)
    model = pruner.supernet.model
    subnets = [scattered(pruner, seed, ratio) for seed, ratio in enumerate((0.3, 0.6, 0.9))]
    widths = np.stack([pruner.cost_table().widths_of(subnet) for subnet in subnets])
    expected = []
    for subnet in subnets:
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet()).eval()
        total = 0.0

        def add(module, args):
            nonlocal total
            with torch.no_grad():
                total += fake_seconds_of(module, args[0])

        for name, module in deployed.named_modules():
            if name:
                module.register_forward_pre_hook(add)
        deployed(DATA)
        expected.append(total)
    np.testing.assert_allclose(estimator.batch(widths), expected, rtol=1e-9)
    assert estimator.of(subnets[1]) == pytest.approx(expected[1])


def fake_seconds_of(module, data):
    return fake_seconds(copy_without_hooks(module), data, 'cpu')


def copy_without_hooks(module):
    copied = copy.deepcopy(module)
    copied._forward_pre_hooks.clear()
    return copied


class Uneven(nn.Module):
    """Groups of a convolution read other numbers of two layers' channels."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = conv(3, 8), conv(3, 4)
        self.grouped, self.head = conv(12, 12, groups=2), conv(12, 2)

    def forward(self, x):
        return self.head(F.relu(self.grouped(torch.cat([self.wide(x), self.narrow(x)], 1))))


def test_widths_that_depend_on_which_channels_are_kept_are_their_means(fake):
    pruner, table = built(Uneven())
    estimator = LatencyEstimator(table, pruner.supernet)
    subnets = [scattered(pruner, seed) for seed in range(40)]
    widths = np.stack([pruner.cost_table().widths_of(subnet) for subnet in subnets])
    assert (widths == widths[0]).all()
    with pytest.raises(CostError, match='depends on which channels'):
        pruner.cost_table().form(pruner.supernet.layers['wide'].outputs, 'wide')
    mean, made = estimator.batch(widths[:1])[0], []
    for subnet in subnets:
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(pruner.supernet.model, pruner.export_subnet()).eval()
        made.append(deployed.wide.out_channels)
    assert len(set(made)) > 1
    form = layer_forms(pruner.supernet, 'wide')[1]
    assert evaluate(form, widths[:1])[0] == pytest.approx(np.mean(made), rel=0.05)
    assert 0 < mean < estimator.batch(pruner.cost_table().full_widths[None])[0]


def test_what_is_not_in_the_table_is_corrected_by_its_traffic(fake):
    pruner, table = built()
    estimator = LatencyEstimator(table, pruner.supernet)
    random = np.random.default_rng(0)
    multiples = pruner.cost_table().multiples
    steps = pruner.cost_table().full_widths // multiples
    widths = (1 + random.integers(0, steps, (30, len(steps)))) * multiples
    features = estimator.features(widths)
    assert features[:, 1].min() > 0
    assert len(np.unique(features[:, 1])) > 5
    assert (features[:, 2:] == [0, 1]).all()
    true = np.array([1.2, 3e-9, 0.0, 2e-4])
    correction = estimator.fit(widths, features @ true)
    np.testing.assert_allclose(correction.coefficients, true, rtol=1e-6)
    assert correction.subnets == 30
    corrected = LatencyEstimator(table.corrected(correction), pruner.supernet)
    np.testing.assert_allclose(corrected.batch(widths), features @ true)


def test_a_table_is_the_same_when_read_again(fake, tmp_path):
    pruner, table = built()
    table = table.corrected(Correction(1.1, 1e-10, 0.0, 1e-5, 8))
    table.save(tmp_path / 'table.json')
    again = LatencyTable.load(tmp_path / 'table.json')
    assert again.device == Device.of('cpu') == table.device
    assert [layer.shape for layer in again.layers] == [layer.shape for layer in table.layers]
    widths = pruner.cost_table().full_widths[None]
    first, second = (
        LatencyEstimator(each, pruner.supernet).batch(widths) for each in (table, again)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)
    again.check('a', Device.of('cpu'), data_of(DATA), widths_of_groups(pruner.supernet))
    content = json.loads((tmp_path / 'table.json').read_text())
    assert content['device']['torch_version'] == torch.__version__
    assert content['device']['threads'] == torch.get_num_threads()
    assert content['layers'][0]['about'] == 'Conv2d 3x3 3 to 8 on 2x3x8x8'


def test_a_table_of_something_else_is_refused(fake, tmp_path):
    pruner, table = built()
    here, data, groups = table.device, table.input, table.groups
    for device, other, widths, message in (
        (DEVICE, data, groups, r"name: '.*', now 'a test'; .*threads|torch_version"),
        (here, '1x3x8x8 float32', groups, r"input: '2x3x8x8 float32', now '1x3x8x8 float32'"),
        (here, data, {**groups, 'wide': 9}, r"channels of group 'wide': 16, now 9"),
        (here, data, {**groups, 'more': 4}, r"channels of group 'more': 0, now 4"),
    ):
        with pytest.raises(LatencyError, match=rf'some\.json: .*{message}') as error:
            table.check('some.json', device, other, widths)
        assert '--rebuild' in str(error.value)
    table.check('some.json', None, data, groups)
    table.save(tmp_path / 'table.json')
    assert TableLatency(tmp_path / 'table.json')(pruner, pruner.current_subnet()) > 0
    elsewhere = build()
    elsewhere.prepare_from_supernet(
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.rand(2, 4)
    )
    with pytest.raises(LatencyError, match=r'table\.json'):
        TableLatency(tmp_path / 'table.json')(elsewhere, elsewhere.current_subnet())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text[: len(text) // 2], 'broken or cut off'),
        (lambda text: '[]', 'expected a mapping'),
        (
            lambda text: text.replace('table 1', 'table 2'),
            "format: expected .* found 'mmprune latency table 2'",
        ),
        (lambda text: text.replace('"device"', '"machine"'), "'machine' is not known"),
        (lambda text: text.replace('"stem",\n   0', '"stem",\n   99'), 'a layer that is not there'),
        (
            lambda text: text.replace('"milliseconds": [', '"milliseconds": [1,', 1),
            r'layers\[0\].milliseconds\[1\]: expected a number from 0',
        ),
        (lambda text: text.replace('"threads": ', '"threads": -'), 'threads: expected a whole'),
        (
            lambda text: text.replace('"scale": 1.0', '"scale": -1.0'),
            'correction.scale: expected a number from 0, found -1',
        ),
        (lambda text: text.replace('"stem": 8', '"stem": 0'), 'groups.stem: expected'),
        (lambda text: text.replace('Conv2d', 'Module'), "there is no layer 'Module'"),
    ],
)
def test_broken_tables_are_refused(fake, tmp_path, change, message):
    _, table = built()
    file = tmp_path / 'table.json'
    table.save(file)
    text = change(file.read_text())
    assert text != file.read_text()
    file.write_text(text)
    with pytest.raises(LatencyError, match=rf'table\.json: .*{message}'):
        LatencyTable.load(file)
    with pytest.raises(InputError, match=r'missing\.json: .*tools/latency.* does not exist'):
        LatencyTable.load(tmp_path / 'missing.json')


LAYERS = [
    (nn.Conv2d(6, 9, 3, stride=2, padding=1, bias=False), (2, 6, 8, 8), (4, 5), (2, 5, 4, 4)),
    (nn.Conv1d(6, 12, 3, groups=3), (2, 6, 8), (3, 9), (2, 9, 6)),
    (nn.Conv2d(6, 12, 3, groups=6), (2, 6, 8, 8), (4,), (2, 8, 6, 6)),
    (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 4, 4), (5, 3), (1, 3, 8, 8)),
    (nn.Linear(6, 9), (2, 5, 6), (4, 7), (2, 5, 7)),
    (nn.BatchNorm2d(6, affine=False), (2, 6, 4, 4), (5,), (2, 5, 4, 4)),
    (nn.GroupNorm(3, 6), (2, 6, 4, 4), (3,), (2, 3, 4, 4)),
    (nn.LayerNorm(6), (2, 5, 6), (4,), (2, 5, 4)),
]


@pytest.mark.parametrize(
    ('module', 'data', 'widths', 'output'), LAYERS, ids=lambda v: type(v).__name__
)
def test_layers_are_made_at_any_width(module, data, widths, output):
    shape = shape_of(module.eval(), data)
    assert shape is not None
    made = shape.build(widths)
    assert made(shape.example(widths)).shape == output
    full = shape.build(shape.full_widths)
    assert type(full) is type(module)
    assert {n: p.shape for n, p in full.state_dict().items()} == {
        n: p.shape for n, p in module.state_dict().items()
    }
    assert full(shape.example(shape.full_widths)).shape == module(torch.rand(data)).shape


def test_other_modules_are_no_layers():
    assert shape_of(nn.LSTM(4, 4), (2, 4)) is None
    assert shape_of(nn.LayerNorm((4, 4)), (2, 4, 4)) is None


# -- measuring -------------------------------------------------------------------------


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'abc'}
    times = interleaved(calls, seconds=0, least_rounds=4)
    assert ''.join(order) == 'abc' * 5  # one round warms up
    assert all(len(each.seconds) == 4 for each in times.values())
    assert len(interleaved(calls, seconds=60, most_rounds=7)['a'].seconds) == 7


def test_times_are_summed_up_by_quartiles():
    times = Times((1.0, 2.0, 3.0, 4.0, 100.0))
    assert times.median == 3.0
    assert times.spread == pytest.approx((4 - 2) / 2 / 3)


def test_the_device_is_named(tmp_path):
    device = Device.of('cpu')
    assert device.threads == torch.get_num_threads()
    assert device.torch_version == torch.__version__
    assert device.name in str(device)
    info = tmp_path / 'cpuinfo'
    info.write_text('processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n')
    assert processor(info) == 'Some CPU @ 2 GHz'
    assert processor(tmp_path / 'missing')
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda': torch finds no CUDA device"):
            Device.of('cuda')


# -- widths ----------------------------------------------------------------------------

SHAPE = LayerShape('Linear', (('bias', True),), 16, 64, (1, 16), 1)


def stairs(step, count=32):
    """Times that grow at every ``step`` widths."""
    widths = tuple(range(33, 33 + count))
    return WidthTimes(SHAPE, 1, widths, tuple(float(math.ceil(w / step)) for w in widths))


def test_rounding_up_is_free_up_to_the_stairs_of_the_hardware():
    layer = stairs(8)
    for multiple in (2, 4, 8):
        assert (layer.rounded_up(multiple) == 1).all()
    # 33 to 40 take 5, 41 to 48 take 6, 49 to 56 take 7, 57 to 64 take 8.
    expected = [6 / 5] * 8 + [1] * 8 + [8 / 7] * 8 + [1] * 8
    np.testing.assert_allclose(layer.rounded_up(16), expected)
    report = RoundingReport((layer,))
    assert report.suggestion == 8
    assert report.cost(16) == pytest.approx(np.mean(expected))
    assert RoundingReport((stairs(1),)).suggestion == 1
    (row,) = rounding_rows(report)
    assert (row['layer'], row['varies']) == ('Linear 16 to 64 on 1x16', 'outputs')
    assert row['rounded_up'][16] == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize(
    ('full', 'step', 'expected'),
    [
        (64, 1, range(33, 65)),
        (16, 1, range(1, 17)),
        (40, 1, range(1, 33)),
        (256, 4, range(132, 161, 4)),
    ],
)
def test_neighbouring_widths_are_around_the_middle(full, step, expected):
    assert neighbours(full, step) == list(expected)


def test_the_heaviest_layers_are_timed_at_neighbouring_widths(fake):
    _, table = built()
    shapes = heaviest(table, 2)
    assert [str(shape) for shape, _ in shapes] == [
        'Conv2d 3x3 12 to 16 on 2x12x8x8',
        'Conv2d 3x3 2 groups 12 to 12 on 2x12x8x8',
    ]
    report = measure_rounding(shapes[:1], seconds=0)
    assert report.layers[0].widths == tuple(range(1, 17))
    assert min(report.layers[0].seconds) > 0
