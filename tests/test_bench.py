"""The parts of the benchmark, on tiny networks; what the times are is of no interest here."""

import itertools
import json
import math
import time
from pathlib import Path
from statistics import geometric_mean

import pytest
import torch
from mmcls.registry import MODELS
from torch import nn

from mmprune.bench import (
    BenchOptions,
    Row,
    autoslim,
    execution,
    insert_into_docs,
    job,
    latencies,
    learned,
    memory,
    networks,
    peers,
    read_results,
    report,
    run,
    run_bench,
    tracing,
)
from mmprune.bench.costs import cost_rows
from mmprune.bench.execution import with_input_masks
from mmprune.bench.networks import Pass, half, prepared
from mmprune.commands import subnet_times
from mmprune.errors import InputError
from mmprune.latency import Times

OURS = Row('execution', 'A, batch 8', 'slice', 21.0, against='deployed', reference=20.0, most=1.05)
RATE = Row('cost', 'A', 'batch', 2e5, 'subnets/s', least=100_000)


def tiny(name='tiny', device='cpu'):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.fixture
def tiny_networks(monkeypatch):
    """Let every part of the benchmark measure a network of three layers."""
    for module in (networks, execution, tracing, job, memory, autoslim, learned):
        if hasattr(module, 'network_of'):
            monkeypatch.setattr(module, 'network_of', tiny)
    for module in (execution, tracing, job):
        monkeypatch.setattr(module, 'batch_of', lambda network, n, *_: torch.rand(n, 3, 8, 8))


# -- rows and tables -------------------------------------------------------------------


def test_a_row_knows_its_ratio_and_whether_it_meets_its_target():
    assert OURS.ratio == pytest.approx(1.05)
    assert OURS.meets
    assert OURS.target == 'at most 1.05'
    slower = Row.from_dict({**OURS.as_dict(), 'value': 21.1})
    assert slower.meets is False
    assert (RATE.ratio, RATE.meets, RATE.target) == (None, True, 'at least 100,000')
    assert Row('cost', 'A', 'batch', 99_999, least=100_000).meets is False
    assert Row('peers', 'A', 'input masks', 2.0, against='plain', reference=1.0).meets is None
    assert Row.from_dict(json.loads(json.dumps(OURS.as_dict()))) == OURS


@pytest.mark.parametrize(
    ('value', 'unit', 'text'),
    [(0.1234, 'ms', '0.123 ms'), (5.678, 'ms', '5.68 ms'), (56.78, 'MB', '56.8 MB'),
     (1234567, 'subnets/s', '1,234,567 subnets/s'), (None, 'ms', '')],
)  # fmt: skip
def test_amounts_have_three_digits(value, unit, text):
    assert report.amount(value, unit) == text


CONTENT = {
    'format': run.FORMAT,
    'device': {'kind': 'cpu', 'name': 'A CPU', 'threads': 2, 'torch_version': '2', 'system': 'L'},
    'versions': {'mmprune': '1', 'torch': '2'},
    'date': '2024-01-01',
    'seconds': 12.0,
    'load': 0.5,
    'options': {'kept': 'any'},
    'rows': [OURS.as_dict(), RATE.as_dict()],
    'problems': {'depth': 'ValueError: no'},
}


def test_every_ratio_stands_beside_its_times():
    text = report.markdown(CONTENT)
    assert (
        '| A, batch 8 | slice | 21.0 ms | deployed | 20.0 ms | 1.050 | at most 1.05 | met |' in text
    )
    assert '| A | batch | 200,000 subnets/s |  |  |  | at least 100,000 | met |' in text
    assert text.startswith('A CPU, 2 threads, L; mmprune 1, torch 2; 2024-01-01, 12 s')
    assert '- depth: ValueError: no' in text
    for line in text.splitlines():
        if line.startswith('|'):
            assert line.count('|') == 9


def test_the_tables_are_put_between_the_markers_of_a_page(tmp_path):
    page = tmp_path / 'benchmarks.md'
    begin, end = report.BEGIN.format('cpu'), report.END.format('cpu')
    page.write_text(f'before\n{begin}\nold\n{end}\nafter\n')
    for _ in range(2):
        insert_into_docs(CONTENT, page)
        text = page.read_text()
        assert text.startswith(f'before\n{begin}\n\nA CPU')
        assert text.endswith(f'{end}\nafter\n')
        assert 'old' not in text
    gpu = {**CONTENT, 'device': {**CONTENT['device'], 'kind': 'cuda'}}
    for content, wrong in ((gpu, text), (CONTENT, 'no markers'), (CONTENT, f'{end}\n{begin}')):
        page.write_text(wrong)
        with pytest.raises(InputError, match=r'benchmarks\.md: needs one line'):
            insert_into_docs(content, page)
        assert page.read_text() == wrong
    with pytest.raises(InputError, match='there is no such page'):
        insert_into_docs(CONTENT, tmp_path / 'missing.md')


def test_the_page_of_the_documentation_has_markers():
    page = Path(__file__).parents[1] / 'docs' / 'benchmarks.md'
    for kind in ('cpu', 'cuda'):
        assert page.read_text().count(report.BEGIN.format(kind)) == 1
        assert page.read_text().count(report.END.format(kind)) == 1


# -- the whole -------------------------------------------------------------------------


def failing():
    raise ValueError('no such thing')


def test_results_are_written_also_if_a_part_fails(tmp_path, monkeypatch, capsys):
    todo = [('good', lambda: [OURS, RATE]), ('bad', failing)]
    monkeypatch.setattr(run, 'steps', lambda options: iter(todo))
    files = {name: tmp_path / name for name in ('bench.json', 'bench.md')}
    content = run_bench(
        BenchOptions(json=files['bench.json'], markdown=files['bench.md'], threads=1)
    )
    assert content['problems'] == {'bad': 'ValueError: no such thing'}
    again = read_results(files['bench.json'])
    assert [Row.from_dict(row) for row in again['rows']] == [OURS, RATE]
    assert again['versions']['torch'] == torch.__version__
    assert again['device']['threads'] == 1
    assert files['bench.md'].read_text() == report.markdown(content)
    output = capsys.readouterr()
    assert '200,000 subnets/s' in output.out
    assert 'bad: ValueError: no such thing' in output.out
    assert 'raise ValueError' in output.err


def test_wrong_options_and_files_are_refused(tmp_path):
    for options, message in (
        ({'sections': ('exec',)}, r"sections are execution.*not \['exec'\]"),
        ({'sections': ()}, 'not none'),
        ({'models': ('resnet51',)}, "no model config 'resnet51'"),
    ):
        with pytest.raises(InputError, match=message):
            run_bench(BenchOptions(**options))
    with pytest.raises(InputError, match='there are no results'):
        read_results(tmp_path / 'missing.json')
    file = tmp_path / 'broken.json'
    for text in ('{', '{}', json.dumps({**CONTENT, 'rows': [{'what': 1}]})):
        file.write_text(text)
        with pytest.raises(InputError, match=r'broken\.json: no results'):
            read_results(file)


def test_sections_can_be_left_out():
    def titles(**options):
        return ' '.join(title for title, _ in run.steps(BenchOptions(**options)))

    everything = titles()
    parts = ['ResNet-50, batch 8, forward', 'AutoSlim', 'preparing vit-base-p16']
    for words in (*parts, 'network out: vgg16', 'cost of'):
        assert words in everything
    assert (
        titles(sections=('cost',)) == 'cost of subnets of ResNet-50 cost of subnets of MobileNetV2'
    )
    assert titles(sections=('tracing',), models=('resnet18',)).startswith(
        'preparing resnet18 means'
    )
    assert 'ResNet-50' not in titles(quick=True)


# -- network in, network out -----------------------------------------------------------


def test_the_whole_job_is_measured_beside_the_peer(tiny_networks):
    pytest.importorskip('torch_pruning')
    steps = list(job.job_steps(BenchOptions(models=('tiny', 'other'), seconds=0)))
    rows = [row for _, step in steps for row in step()]
    assert steps[0][0] == 'network in, network out: tiny'
    assert [row.section for row in rows] == ['job'] * 3
    assert rows[-1].subject == 'geometric mean over 2 networks'
    assert all(row.ratio > 0 for row in rows)
    assert rows[-1].target == 'at most 1'


def test_both_give_a_network_of_half_the_width():
    pytest.importorskip('torch_pruning')
    data = torch.rand(1, 3, 8, 8)
    for prune in (job.pruned, job.pruned_by_peer):
        small = prune(tiny(), data)
        assert (small[0].out_channels, small[3].groups) == (4, 4)


def test_a_network_that_the_peer_cannot_prune_has_no_reference(tiny_networks, monkeypatch):
    def fails(network, data):
        raise ValueError('cannot')

    monkeypatch.setattr(job, 'pruned_by_peer', fails)
    options = BenchOptions(models=('tiny',), seconds=0)
    rows = [row for _, step in job.job_steps(options) for row in step()]
    assert [(row.against, row.reference) for row in rows] == [('', None)]


# -- execution -------------------------------------------------------------------------


def test_execution_is_measured_in_all_ways(tiny_networks):
    options = BenchOptions(networks=('tiny',), batches=(1, 2), size=8, seconds=0)
    found = [row for _, step in execution.execution_steps(options) for row in step()]
    whats = [row.what for row in found]
    for what in (
        'slice, ratio 0.5: forward',
        'slice, full width: forward and backward',
        'mask: forward',
        'slice: set_subnet',
        'mask: the first forward after set_subnet',
        'deploy_subnet, ratio 0.5',
        'deploy_subnet, ratio 0.5: memory allocated at most',
    ):
        assert what in whats
    assert {row.section for row in found} == {'execution', 'peers'}
    assert all(row.value > 0 and row.ratio > 0 for row in found)
    targets = {row.what: row.most for row in found if row.most}
    assert targets['slice, ratio 0.5: forward'] == 1.05
    assert targets['slice, ratio 0.5: forward and backward'] == 1.10
    assert targets['mask: set_subnet'] == 0.01
    without = execution.Contestants('tiny', BenchOptions(sections=('execution',), seconds=0))
    assert {row.section for row in without.passes(1, False)} == {'execution'}


def test_a_pass_computes_what_it_says():
    network, data = tiny(), torch.rand(2, 3, 8, 8)
    forward, both = Pass(network, data), Pass(network, data, with_backward=True)
    both.make_ready()
    assert network.training
    both()
    assert all(parameter.grad is not None for parameter in network.parameters())
    forward.make_ready()
    assert not network.training
    forward()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_input_masks_multiply_what_layers_read():
    network, data = tiny(), torch.rand(2, 3, 8, 8)
    masked = with_input_masks(network)
    torch.testing.assert_close(masked(data), network(data))
    assert not any('in_mask' in name for name in network.state_dict())
    masked[3].in_mask[:, 0] = 0
    silenced = tiny()
    with torch.no_grad():
        silenced[1].weight[0] = silenced[1].bias[0] = 0
    torch.testing.assert_close(masked(data), silenced(data))
    assert not torch.allclose(masked(data), network(data))


def test_half_of_every_group_is_kept():
    pruner = prepared(tiny(), torch.rand(1, 3, 8, 8), kept='first')
    assert {n: m.flatten().tolist() for n, m in half(pruner).items()} == {'0': [1] * 4 + [0] * 4}


def classifier(name='small', device='cpu'):
    config = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )
    return MODELS.build({'_scope_': 'mmcls', **config}).eval()


@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4:UserWarning')
def test_a_step_of_autoslim_is_held_against_the_steps_of_its_subnets(monkeypatch):
    monkeypatch.setattr(autoslim, 'network_of', classifier)
    drawn = []

    def replayed(subnets):
        drawn.extend(subnets)
        for subnet in itertools.cycle(subnets):
            drawn.append(subnet)
            yield subnet

    monkeypatch.setattr(autoslim, 'cycle', replayed)
    options = BenchOptions(batches=(2,), size=32, seconds=0)
    (row,) = autoslim.autoslim_row('small', options)
    assert row.most == 1.15
    assert row.value > 0
    # Two are drawn and deployed, and every step draws these two again.
    first, second, *again = drawn
    assert len(again) == 2 * (1 + row.rounds)
    assert all(each is (first, second)[number % 2] for number, each in enumerate(again))


@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4:UserWarning')
def test_steps_that_learn_widths_are_held_against_plain_ones(monkeypatch):
    monkeypatch.setattr(learned, 'network_of', classifier)
    options = BenchOptions(batches=(2,), size=32, seconds=0)
    rows = list(learned.learned_rows('small', options))
    methods = ['Group Fisher', 'DMCP', 'DCFF', 'DCFF']
    assert [row.what.partition(':')[0] for row in rows] == methods
    assert [row.against.split()[-2] for row in rows] == ['plain', 'plain', 'plain', 'deployed']
    assert [row.most for row in rows] == [1.3, 1.3, 1.3, None]
    assert all(row.value > 0 for row in rows)


# -- tracing ---------------------------------------------------------------------------


def test_tracing_is_measured_beside_passes_and_a_peer(tiny_networks, monkeypatch):
    monkeypatch.setattr(peers, 'find_spec', lambda name: True)
    monkeypatch.setattr(tracing, 'build_dependency', lambda network, data: network(data))
    options = BenchOptions(models=('tiny', 'other'), memory_models=(), seconds=0, blocks=(2, 6))
    found = [row for _, step in tracing.tracing_steps(options) for row in step()]
    assert [row.subject for row in found] == (
        ['tiny, 1x3x8x8'] * 3 + ['other, 1x3x8x8'] * 3
        + ['geometric mean over 2 networks'] * 4 + ['residual network without norms']
    )  # fmt: skip
    ratios = [row.ratio for row in found[:6] if 'gradients recorded' in row.against]
    assert found[6].ratio == pytest.approx(geometric_mean(ratios))
    assert [row.most for row in found[6:]] == [4.0, None, 0.5, None, 12.0]


def test_a_peer_that_fails_is_left_out(tiny_networks, monkeypatch):
    monkeypatch.setattr(peers, 'find_spec', lambda name: True)
    monkeypatch.setattr(tracing, 'build_dependency', lambda network, data: failing())
    options = BenchOptions(models=('tiny',), memory_models=(), seconds=0)
    fastest = peers.Fastest('tracing', tracing.WHAT)
    rows = list(tracing.prepare_rows('tiny', options, fastest))
    assert len(rows) == 2
    assert not any('Torch-Pruning' in row.against for row in rows)


def test_what_takes_too_long_is_stopped():
    started = time.monotonic()
    with pytest.raises(TimeoutError, match='longer than 1 s'), peers.within(1):
        while time.monotonic() < started + 20:
            pass
    assert time.monotonic() < started + 10
    with peers.within(1):
        pass


def test_means_are_over_the_networks_that_have_both():
    fastest = peers.Fastest('tracing', dict(a='A', b='B', c='C'))
    for network, seconds in (('x', (1.0, 2.0)), ('y', (4.0, 2.0)), ('z', (9.0,))):
        fastest.note(network, {n: Times((t,)) for n, t in zip('ab', seconds, strict=False)})
    (row,) = fastest.rows([('a', 'b', 4.0), ('a', 'c', None)])
    assert (row.subject, row.what, row.against) == ('geometric mean over 2 networks', 'A', 'B')
    assert (row.value, row.reference) == (pytest.approx(2000), pytest.approx(2000))


# -- memory ----------------------------------------------------------------------------


def test_allocations_of_a_call_are_counted():
    def call():
        first = torch.ones(1000)
        second = torch.ones(3000)
        del first
        return second + torch.ones(3000)

    # At the sum: two terms and the result; before it, 4,000 numbers and then 6,000.
    assert memory.allocated_peak(call) == 4 * 9000


def test_the_memory_of_this_process_is_told():
    memory.forget_peak()  # gives back what other tests have left
    before = memory.resident('VmRSS')
    held = torch.ones(30_000_000)
    assert memory.resident('VmHWM') >= before + held.nbytes * 0.9
    assert memory.resident('VmRSS') >= held.nbytes


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch):
    assert memory.measured_apart('forward', 'resnet18', 64, 1) > 0
    monkeypatch.setattr(memory, 'measured_apart', lambda what, *_: {'forward': 10}.get(what, 15))
    rows = list(memory.memory_of_tracing('resnet18', 64, 1))
    assert [row.ratio for row in rows] == [1.5, 1.5]
    assert rows[0].meets


def test_a_process_that_fails_is_told():
    with pytest.raises(InputError, match="no model config 'no-such-network'"):
        memory.measured_apart('trace', 'no-such-network', 64, 1)


# -- latency ---------------------------------------------------------------------------


def test_predictions_are_held_against_measurements(monkeypatch):
    monkeypatch.setattr(latencies, 'network_of', tiny)
    monkeypatch.setattr(latencies, 'batch_of', lambda *_: torch.rand(1, 3, 8, 8))
    monkeypatch.setattr(latencies, 'SUBNETS', 3)
    monkeypatch.setattr(subnet_times, 'FITTED', 2)
    correlation, predicted, by_torch, by_onnx = latencies.latency_rows(
        'tiny', BenchOptions(size=8, seconds=0)
    )
    assert -1 <= correlation.value <= 1
    assert predicted.value > 0
    assert predicted.reference > 0
    assert by_torch.what.startswith('torch: the narrowest')
    assert by_onnx.what.startswith('onnxruntime: the narrowest')


# -- cost ------------------------------------------------------------------------------


def test_rates_of_the_closed_form(monkeypatch):
    from mmprune.bench import costs

    monkeypatch.setattr(costs, 'network_of', tiny)
    monkeypatch.setattr(costs, 'batch_of', lambda *_: torch.rand(1, 3, 8, 8))
    monkeypatch.setattr(costs, 'SUBNETS', 100)
    threads = torch.get_num_threads()
    rows = list(cost_rows('tiny', BenchOptions(size=8, seconds=0)))
    assert torch.get_num_threads() == threads
    assert [row.least for row in rows] == [None, 100_000, None, None]
    assert all(math.isfinite(row.value) and row.value > 0 for row in rows)
