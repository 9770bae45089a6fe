"""What groups cost one by one: measured, resumed, as a table, a picture and ratios."""

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from randomised import randomise

from mmprune.commands import sensitivity as tool
from mmprune.commands.metrics import metrics_of
from mmprune.commands.prune_options import PruneOptions, prunable_config
from mmprune.commands.sensitivity import SensitivityOptions, sensitivity
from mmprune.commands.sensitivity_report import Row, ratios_of_budget, ratios_of_drop
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm
from mmprune.pruners import ImportancePruner
from mmprune.registry import MODELS

METRIC = 'accuracy/top1'
FEW = dict(shares=(0.5,), keep=['backbone.layer2', 'backbone.layer3'])


def tiny() -> Config:
    """A plain network and few images."""
    cfg = load_config('resnet-small_1xb64_digits.py')
    cfg.merge_from_dict(
        {
            'model.backbone.stem_channels': 8,
            'model.backbone.base_channels': 8,
            'model.head.in_channels': 32,
            'train_dataloader.dataset.indices': 32,
            'val_dataloader.dataset.indices': 60,
        }
    )
    cfg.prune_cfg = dict(compensation=dict(images=dict(num_batches=1, batch_size=16)))
    return cfg


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = tiny()
    init_default_scope('mmcls')
    torch.manual_seed(1)
    network = randomise(MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)))
    path = tmp_path_factory.mktemp('plain') / 'plain.pth'
    torch.save({'state_dict': network.state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def measured(plain: Path) -> tuple[Path, dict[str, float]]:
    options = SensitivityOptions(shares=(0.5, 0.25), after='cut', drop=1.0)
    ratios = sensitivity(tiny(), plain, options)
    return plain.parent / 'sensitivity', ratios


def test_every_group_is_narrowed_alone(
    measured: tuple[Path, dict[str, float]], plain: Path
) -> None:
    folder, ratios = measured
    content = json.loads((folder / 'sensitivity.json').read_text())
    rows = [Row(**row) for row in content['rows']]
    assert {row.group for row in rows} == ratios.keys()
    assert {(row.channels, row.full) for row in rows if row.full == 16} == {(8, 16), (4, 16)}
    algorithm = build_algorithm(prunable_config(tiny(), PruneOptions(ratio=1.0)), plain)
    pruner = algorithm.pruner
    full = {s: m.numel() for s, m in pruner.channel_spaces.items()}
    for row in rows[::5]:
        pruner.set_subnet(pruner.subnet_of_counts({**full, row.group: row.channels}))
        assert metrics_of(algorithm, tiny(), ('val',))[METRIC] == row.metric
        assert row.loss == pytest.approx(content['full'] - row.metric)
        assert pruner.cost() == {'macs': row.macs, 'params': row.params}
    assert len({row.metric for row in rows}) > 2
    with (folder / 'sensitivity.csv').open() as file:
        written = list(csv.DictReader(file))
    assert [row['group'] for row in written] == [row.group for row in rows]
    assert (folder / 'sensitivity.png').stat().st_size > 10_000


def test_a_pruner_takes_the_ratios(measured: tuple[Path, dict[str, float]]) -> None:
    folder, ratios = measured
    cfg = tiny()
    cfg.model.type = 'mmcls.ImageClassifier'
    network = MODELS.build(cfg.model)
    pruner = ImportancePruner(ratio=str(folder / 'ratios.json'))
    pruner.prepare_from_supernet(network, torch.rand(1, 1, 8, 8))
    subnet = pruner.prune()
    assert {s: float(m.mean()) for s, m in subnet.items()} == ratios


@pytest.mark.parametrize('after', ['compensation', 'recalibration'])
def test_it_goes_on_where_it_was_stopped(
    after: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SensitivityOptions(**FEW, after=after, out_dir=tmp_path / 'a')
    whole = sensitivity(tiny(), plain, options)
    expected = json.loads((tmp_path / 'a' / 'sensitivity.json').read_text())
    calls = []
    measure = tool.judged

    def stop_after_one(*args: Any) -> dict[str, float]:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(tool, 'judged', stop_after_one)
    options = SensitivityOptions(**FEW, after=after, out_dir=tmp_path / 'b')
    with pytest.raises(KeyboardInterrupt):
        sensitivity(tiny(), plain, options)
    assert len(json.loads((tmp_path / 'b' / 'sensitivity.json').read_text())['rows']) == 1
    calls.clear()
    monkeypatch.setattr(tool, 'judged', lambda *args: calls.append(args) or measure(*args))
    assert sensitivity(tiny(), plain, options) == whole
    assert len(calls) == len(expected['rows']) - 1 > 0
    found = json.loads((tmp_path / 'b' / 'sensitivity.json').read_text())
    assert found == expected
    other = SensitivityOptions(**FEW, after='cut', out_dir=tmp_path / 'b')
    with pytest.raises(InputError, match=r'with other after \(after was .*--restart'):
        sensitivity(tiny(), plain, other)
    (tmp_path / 'b' / 'sensitivity.json').write_text('{}')
    with pytest.raises(InputError, match=r'is no table of sensitivities.*format is missing'):
        sensitivity(tiny(), plain, options)


class Four(torch.nn.Sequential):
    def __init__(self) -> None:
        layers = [torch.nn.Conv2d(a, b, 3) for a, b in ((3, 8), (8, 8), (8, 8), (8, 2))]
        super().__init__(*layers)


def row(group: str, channels: int, loss: float) -> Row:
    return Row(group, channels, 8, 0, loss, 0, 0)


def four() -> ImportancePruner:
    pruner = ImportancePruner(ratio=1.0)
    pruner.prepare_from_supernet(Four(), torch.rand(1, 3, 12, 12))
    return pruner


def test_ratios_of_a_drop() -> None:
    rows = [row('0', 6, 0.5), row('0', 4, 2), row('0', 2, 0.1), row('1', 4, -1), row('1', 2, 1)]
    assert ratios_of_drop(four(), rows, 1.0) == {'0': 0.75, '1': 0.25, '2': 1.0}


def test_ratios_of_a_budget_lose_least() -> None:
    pruner = four()
    losses = {'0': {4: 1.0, 2: 5.0}, '1': {6: 0.2, 2: 0.1}, '2': {4: 3.0, 2: 3.5}}
    rows = [row(s, n, loss) for s, each in losses.items() for n, loss in each.items()]
    ratios = ratios_of_budget(pruner, rows, dict(macs=0.4))
    limit = 0.4 * pruner.cost()['macs']

    def cost(widths: tuple[int, ...]) -> float:
        subnet = pruner.subnet_of_counts(dict(zip('012', widths, strict=True)))
        return pruner.cost(subnet)['macs']

    def loss(widths: tuple[int, ...]) -> float:
        lines = {  # linear in between; 2 channels of group 1 lose as much as 6
            '0': {2: 5, 3: 3, 4: 1, 5: 0.75, 6: 0.5, 7: 0.25, 8: 0},
            '1': {2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2, 6: 0.2, 7: 0.1, 8: 0},
            '2': {2: 3.5, 3: 3.25, 4: 3, 5: 2.25, 6: 1.5, 7: 0.75, 8: 0},
        }
        return sum(lines[s][n] for s, n in zip('012', widths, strict=True))

    best = min(loss(w) for w in product(range(2, 9), repeat=3) if cost(w) <= limit)
    widths = tuple(round(8 * ratios[s]) for s in '012')
    assert cost(widths) <= limit
    assert loss(widths) == pytest.approx(best)
    with pytest.raises(InputError, match='cannot be met by widths that were measured'):
        ratios_of_budget(pruner, rows, dict(macs=0.01))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(shares=(0.5, 1.5)), r'shares must be numbers between 0 and 1, not \[0.5, 1.5\]'),
        (dict(after='prayer'), 'after must be one of compensation, recalibration, cut'),
        (dict(metric='mAP'), r'--metric NAME; there are accuracy/top1'),
        (dict(budget=dict(latency=0.5)), 'latency'),
    ],
)
def test_refusals(options: dict[str, Any], message: str, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        sensitivity(tiny(), plain, SensitivityOptions(**options, out_dir=tmp_path / 'x'))
    assert not (tmp_path / 'x').exists()


def test_a_file_that_has_no_ratios(tmp_path: Path) -> None:
    (tmp_path / 'ratios.json').write_text('[0.5]')
    with pytest.raises(InputError, match=r'ratios\.json: ratio, .* found \[0\.5\]'):
        ImportancePruner(ratio=str(tmp_path / 'ratios.json'))
    with pytest.raises(InputError, match=r'missing\.json: cannot be read as ratios'):
        ImportancePruner(ratio=tmp_path / 'missing.json')
