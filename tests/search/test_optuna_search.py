"""The loop on Optuna's samplers, with metrics that a test makes up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm
from mmprune.search import SearchLoop, read_candidates
from mmprune.search.candidates import main_metric, rule_of

Search = Callable[..., Any]
Metrics = Callable[[dict[str, torch.Tensor]], dict[str, float]]
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
OPTUNA = {'type': 'mmprune.OptunaSearchLoop', 'constraints': {'macs': 0.5}, 'candidates': 8}


def measured(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> list[dict[str, int]]:
    """Have candidates measured by a function of the subnet; list what they cost."""
    costs: list[dict[str, int]] = []

    def measure(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
        costs.append(loop.pruner.cost(subnet))
        return metrics(subnet)

    monkeypatch.setattr(SearchLoop, '_measure', measure)
    return costs


def kept(subnet: dict[str, torch.Tensor]) -> float:
    """More of the later groups is better."""
    return float(sum(number * mask.sum() for number, mask in enumerate(subnet.values())))


def history(tmp_path: Path, folder: str = 'search') -> Any:
    return read_candidates(tmp_path / folder)


@pytest.mark.parametrize(
    ('sampler', 'more'),
    [('NSGAII', {}), ('TPE', {}), ('QMC', {}), ('Grid', {'shares': [0.5, 1.0]})],
)
def test_all_samplers_stay_within_the_budget(
    untrained: Path,
    search: Search,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    more: dict[str, Any],
) -> None:
    costs = measured(monkeypatch, lambda subnet: {'accuracy/top1': kept(subnet)})
    limits = {'macs': 0.5, 'params': 0.6}
    (result,) = search(untrained, **{**OPTUNA, 'sampler': sampler, 'constraints': limits, **more})
    pruner = build_algorithm(load_config(CONFIG), untrained).pruner
    full = pruner.cost(pruner.subnet_from({}))
    assert len(costs) == 8
    assert all(cost[name] <= share * full[name] for cost in costs for name, share in limits.items())
    found = history(tmp_path)
    assert len({each.key for each in found}) == 8
    assert found[0].origin == 'uniform'
    assert result.metric == max(each.metric for each in found)


def test_several_objectives_give_what_no_other_subnet_beats(
    untrained: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, lambda subnet: {'accuracy/top1': kept(subnet)})
    front = {**OPTUNA, 'constraints': None, 'candidates': 12, 'start': ['uniform', 'smallest']}
    results = search(untrained, **front, objectives=['metric', 'macs'])
    found = history(tmp_path)
    best = [
        each
        for each in found
        if not any(
            other.metric >= each.metric and other.macs <= each.macs and other.key != each.key
            for other in found
        )
    ]
    assert [(r.metric, r.macs) for r in results] == sorted(
        ((each.metric, each.macs) for each in best), key=lambda pair: pair[1]
    )
    # The ends were start points.
    assert [each.origin for each in found[:2]] == ['uniform', 'smallest']
    assert results[0].macs == found[1].macs
    assert results[-1].macs == found[0].macs
    assert [result.budget for result in results] == [f'front_{n}' for n in range(len(results))]
    assert all(Path(result.channel_cfg).is_file() for result in results)


def test_a_channel_config_is_a_start(
    untrained: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, lambda subnet: {'accuracy/top1': kept(subnet)})
    (first,) = search(untrained, 'first', **OPTUNA)
    (again,) = search(untrained, **{**OPTUNA, 'candidates': 1, 'start': first.channel_cfg})
    assert (again.metric, again.macs) == (first.metric, first.macs)


@pytest.mark.parametrize('importance', ['L1Importance', 'TaylorImportance'])
def test_importance_and_ratios_are_starts(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, importance: str
) -> None:
    """An importance that looks at data sees the training images of the config."""
    monkeypatch.setattr('mmprune.search.page.SearchFiles.draw', lambda *_: None)
    measured(monkeypatch, lambda subnet: {'accuracy/top1': kept(subnet)})
    cfg = load_config(CONFIG)
    cfg.model.pruner.update(importance=importance, ratios=[0.25, 0.5, 0.75, 1.0])
    cfg.prune_cfg = dict(collect=dict(num_batches=2, batch_size=8))
    groups = build_algorithm(cfg, untrained).pruner.supernet.prunable_groups
    first, *others = groups
    ratios = tmp_path / 'ratios.json'
    ratios.write_text(json.dumps({first: 0.25, **dict.fromkeys(others, 0.5)}))
    cfg.search_cfg = {**OPTUNA, 'candidates': 3, 'start': ['uniform', 'importance', str(ratios)]}
    search_subnet(cfg, untrained, tmp_path / 'search')
    uniform, scored, given = history(tmp_path)
    assert [each.origin for each in (uniform, scored, given)] == cfg.search_cfg.start
    shares = {
        name: [each.channels[space_id] / groups[space_id].num_channels for space_id in groups]
        for name, each in (('uniform', uniform), ('scored', scored), ('given', given))
    }
    assert shares['given'] == [0.25, *[0.5] * len(others)]
    assert np.ptp(shares['scored']) > np.ptp(shares['uniform'])
    assert scored.macs > 0.9 * uniform.macs


def test_no_importance_is_no_start(untrained: Path, search: Search) -> None:
    with pytest.raises(InputError, match='importance'):
        search(untrained, **{**OPTUNA, 'start': 'importance'})


@pytest.mark.parametrize('loop', [OPTUNA, {'targets': [0.8]}])
def test_a_detector_that_detects_nothing_is_the_worst_and_the_search_goes_on(
    untrained: Path,
    search: Search,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loop: dict[str, Any],
) -> None:
    seen: list[int] = []

    def detections(subnet: dict[str, torch.Tensor]) -> dict[str, float]:
        seen.append(1)
        empty = len(seen) in (1, 4)
        return {} if empty else {'coco/bbox_mAP_50': 1.0, 'coco/bbox_mAP': kept(subnet)}

    measured(monkeypatch, detections)
    (result,) = search(untrained, **loop)
    found = history(tmp_path)
    assert [each.metric is None for each in found][:4] == [True, False, False, True]
    measurable = [each for each in found if each.metric is not None]
    assert all(each.metric == each.metrics['coco/bbox_mAP'] for each in measurable)
    if loop is OPTUNA:
        assert result.metric == max(each.metric for each in measurable)
    (again,) = search(untrained, resume=True, **loop)
    assert again == result
    assert history(tmp_path) == found


def test_nothing_is_found_by_any_candidate(
    untrained: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, lambda subnet: {})
    (result,) = search(untrained, **{**OPTUNA, 'candidates': 3})
    assert result.metric is None
    assert Path(result.channel_cfg).is_file()


def test_less_of_an_error_is_better(
    untrained: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, lambda subnet: {'NME': 1e6 - kept(subnet)})
    (result,) = search(untrained, **OPTUNA)
    assert result.metric == min(each.metric for each in history(tmp_path))


@pytest.mark.parametrize(
    ('names', 'main', 'rule'),
    [
        (['accuracy/top1', 'accuracy/top5'], 'accuracy/top1', 'greater'),
        (['coco/segm_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP'], 'coco/bbox_mAP', 'greater'),
        (['aAcc', 'mIoU', 'mAcc'], 'mIoU', 'greater'),
        (['coco/AP', 'coco/AP .5'], 'coco/AP', 'greater'),
        (['PCK', 'loss'], 'PCK', 'greater'),
        (['val_loss'], 'val_loss', 'less'),
        (['RMSE'], 'RMSE', 'less'),
        (['alignment'], 'alignment', 'greater'),
    ],
)
def test_the_metric_follows_the_evaluator(names: list[str], main: str, rule: str) -> None:
    assert main_metric(dict.fromkeys(names, 0.5)) == main
    assert rule_of(main) == rule


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'constraints': None}, 'Nothing limits this search.*objectives='),
        ({'candidates': 0}, 'candidates must be 1 or more'),
        ({'objectives': ['metric', 'latency']}, 'latency needs a table'),
        ({'sampler': 'NSGA'}, 'has no NSGASampler; did you mean'),
        ({'shares': [1.0]}, 'No subnet is within the budget'),
        ({'constraints': {'macs': 0.01}}, 'No subnet is within the budget'),
    ],
)
def test_settings_that_make_no_sense(
    untrained: Path, search: Search, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(untrained, **{**OPTUNA, **settings})
