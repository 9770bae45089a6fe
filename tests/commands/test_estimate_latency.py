"""tools/latency.py on a tiny network, and searching under a limit of latency."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmprune.commands import backends, estimate_latency, subnet_times
from mmprune.commands.backends import UnavailableError, check_backend, measure_networks
from mmprune.commands.estimate_latency import LatencyOptions
from mmprune.commands.subnet_times import Comparison
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.latency import Correction, LatencyTable, building
from mmprune.models.algorithm import build_algorithm
from mmprune.search import SearchLoop, read_candidates

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
Search = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds as there can be: what the numbers are is of no interest here."""
    monkeypatch.setattr(building, 'MOST_ROUNDS', 1)
    monkeypatch.setattr(building, 'SHARES', (0.5, 1.0))
    monkeypatch.setattr(subnet_times, 'FITTED', 4)
    monkeypatch.setattr(estimate_latency, 'SECONDS_PER_SUBNET', 0)


def run(**options: Any) -> dict[str, Any]:
    return estimate_latency.estimate_latency(CONFIG, LatencyOptions(**options))


def test_everything_is_measured_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.shutil, 'which', lambda name: None)
    monkeypatch.delenv('CXX', raising=False)
    files = {name: tmp_path / name for name in ('table.json', 'plot.png', 'numbers.json')}
    found = run(
        table=files['table.json'],
        plot=files['plot.png'],
        json=files['numbers.json'],
        subnets=3,
        widths=1,
        backends=('torch', 'compile'),
        threads=1,
    )
    assert json.loads(files['numbers.json'].read_text()) == json.loads(json.dumps(found))
    assert files['plot.png'].stat().st_size > 5000
    comparison = found['comparison']
    assert len(comparison['predicted']) == len(comparison['measured']) == 3
    assert len(set(comparison['macs'])) == 3
    assert min(comparison['predicted']) > 0
    assert found['backends']['torch']['full network'] > 0
    assert found['round_to'] in (1, 2, 4, 8, 16, 32)
    table = LatencyTable.load(files['table.json'])
    assert table.correction.subnets == 6
    text = ' '.join(capsys.readouterr().out.split())
    for words in ('measured now', 'rank correlation', 'narrowest subnet', 'round_to='):
        assert words in text
    assert 'not measured: torch.compile needs a C++ compiler' in text

    before = files['table.json'].read_bytes()
    run(table=files['table.json'], subnets=0, backends=(), threads=1)
    assert 'measured before' in capsys.readouterr().out
    assert files['table.json'].read_bytes() == before


def test_a_plain_network_needs_no_pruner(tmp_path: Path) -> None:
    found = estimate_latency.estimate_latency(
        'digits/resnet-small_1xb64_digits.py',
        LatencyOptions(table=tmp_path / 'table.json', subnets=2, input_shape=(1, 8, 8)),
        {'model.backbone.base_channels': 8, 'model.head.in_channels': 32},
    )
    assert len(set(found['comparison']['macs'])) == 2
    assert 'narrowest subnet' in found['backends']['torch']


def test_a_table_of_another_device_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / 'table.json'
    run(table=file, subnets=0, backends=())
    content = file.read_text()
    file.write_text(
        content.replace(f'"torch_version": "{torch.__version__}"', '"torch_version": "2.0"')
    )
    with pytest.raises(InputError, match=r"table\.json: .*torch_version: '2\.0', now.*--rebuild"):
        run(table=file, subnets=0, backends=())
    run(table=file, subnets=0, backends=(), rebuild=True)
    assert LatencyTable.load(file).device.torch_version == torch.__version__


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='2 subnets or more, not 1'):
        run(subnets=1)
    with pytest.raises(InputError, match='backends are torch, compile, onnxruntime'):
        run(table=tmp_path / 'table.json', subnets=0, backends=('tensorrt',))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='no CUDA device'):
            run(device='cuda')
    with pytest.raises(InputError, match=r'draws only 1 different subnets.*pruner\.ratios'):
        estimate_latency.estimate_latency(
            CONFIG,
            LatencyOptions(table=tmp_path / 'new.json', subnets=0),
            {'model.pruner.ratios': [0.5]},
        )


def test_a_comparison_says_how_good_the_predictions_are() -> None:
    found = Comparison((4, 3, 2, 1), (1.1, 2.0, 2.9, 4.0), (1.0, 2.0, 3.0, 4.0))
    assert found.rank_correlation == pytest.approx(1)
    assert found.rank_correlation_of_macs == pytest.approx(-1)
    np.testing.assert_allclose(found.errors, [0.1, 0, -1 / 30, 0])
    assert np.isnan(Comparison((1, 2), (1.0, 1.0), (1.0, 2.0)).rank_correlation)


def test_onnxruntime_runs_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    times = measure_networks({'small': network}, torch.rand(1, 3, 8, 8), 'onnxruntime', seconds=0)
    assert times['small'].median > 0


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum().item())


def test_a_network_that_a_backend_cannot_run_is_named() -> None:
    with pytest.raises(UnavailableError, match='odd does not run by onnxruntime'):
        measure_networks({'odd': Unexportable()}, torch.rand(1, 3, 8, 8), 'onnxruntime', seconds=0)


def test_what_a_backend_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(
        UnavailableError, match=r'onnx, onnxscript, onnxruntime missing; pip install'
    ):
        check_backend('onnxruntime')
    monkeypatch.setenv('CXX', '/no/such/compiler')
    with pytest.raises(UnavailableError, match=r'there is none of /no/such/compiler'):
        check_backend('compile')


def test_a_search_stays_within_a_predicted_latency(
    untrained: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'table.json'
    # A table of which a test can tell what it predicts: a microsecond per weight.
    monkeypatch.setattr(
        building, '_once', lambda module, *_: 1e-6 * sum(p.numel() for p in module.parameters())
    )
    run(table=file, subnets=0, backends=())
    LatencyTable.load(file).corrected(Correction()).save(file)

    def metric(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
        return {'accuracy/top1': float(sum(mask.sum() for mask in subnet.values()))}

    monkeypatch.setattr(SearchLoop, '_measure', metric)
    evolution = {
        'type': 'mmprune.EvolutionSearchLoop',
        'max_epochs': 2,
        'population_size': 4,
        'top_k': 2,
        'num_mutation': 1,
        'num_crossover': 1,
    }
    with pytest.raises(InputError, match='needs a table'):
        search(untrained, **evolution, constraints={'latency': 0.9})
    (result,) = search(untrained, **evolution, constraints={'latency': 0.5}, latency=str(file))
    assert result.budget == '0.5_latency'
    algorithm = build_algorithm(load_config(CONFIG), untrained)
    full = algorithm.pruner.cost()['params']
    history = read_candidates(tmp_path / 'search')
    assert len(history) > 4
    for each in history:
        # The layers of the table have all parameters of this network.
        assert each.latency == pytest.approx(each.params / 1e3)
        assert each.params <= 0.5 * full
