"""The search loops, on a supernet with random weights and a metric that a test can predict."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.metrics import predict_dataset
from mmprune.commands.prune_options import searchable_config
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.importance import L1Importance
from mmprune.models import Recalibration
from mmprune.models.algorithm import build_algorithm, calibration_batches
from mmprune.search import (
    Evaluation,
    EvolutionSearchLoop,
    GreedySearchLoop,
    SearchLoop,
    read_candidates,
)
from mmprune.search.progress import duration

Search = Callable[..., Any]
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
EVOLUTION = {
    'type': 'mmprune.EvolutionSearchLoop',
    'constraints': {'macs': 0.5},
    'max_epochs': 3,
    'population_size': 6,
    'top_k': 3,
    'num_mutation': 2,
    'num_crossover': 2,
}


class InterruptedSearchError(Exception):
    """Stands for whatever ends a search before its time."""


@pytest.fixture
def predictable(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Let every group lose a different amount of the metric per channel; list what is evaluated."""
    evaluated: list[dict[str, int]] = []

    def measure(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
        evaluated.append(loop.pruner.cost(subnet))
        lost = [float((mask == 0).sum()) for mask in subnet.values()]
        value = 100 - sum((1 + number) * each for number, each in enumerate(lost))
        return {'accuracy/top1': value}

    monkeypatch.setattr(SearchLoop, '_measure', measure)
    return evaluated


def unnumbered(found: list[Evaluation]) -> list[Evaluation]:
    """Evaluations without workers, and numbers, in which what was given back leaves gaps."""
    return [replace(each, index=0, worker='') for each in found]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Raise InterruptedSearchError instead of the evaluation that follows on ``count`` others."""
    measure, done = SearchLoop._measure, []

    def interrupted(loop: SearchLoop, subnet: Any) -> dict[str, float]:
        if len(done) == count:
            raise InterruptedSearchError
        done.append(subnet)
        return measure(loop, subnet)

    monkeypatch.setattr(SearchLoop, '_measure', interrupted)


def test_greedy_search_drops_what_hurts_least(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    results = search(untrained, targets=[0.5, 0.8], max_channel_bins=4)

    # By hand: in every round, the bin that loses least of the metric.
    algorithm = build_algorithm(load_config(CONFIG), untrained)
    pruner = algorithm.pruner
    sizes = {space_id: mask.numel() for space_id, mask in pruner.channel_spaces.items()}
    bins = dict.fromkeys(sizes, 4)
    full = pruner.cost(pruner.current_subnet())['macs']
    expected = []
    for target in (0.8, 0.5):
        while cost(pruner, bins) > target * full:
            loss = {
                space_id: (1 + number) * sizes[space_id] // 4
                for number, space_id in enumerate(sizes)
                if bins[space_id] > 2  # the supernet was trained down to half
            }
            least = min(loss.values())
            ties = [space_id for space_id, value in loss.items() if value == least]
            cheapest = min(ties, key=lambda s: cost(pruner, {**bins, s: bins[s] - 1}))
            bins[cheapest] -= 1
        expected.append(cost(pruner, bins))
    assert [result.macs for result in results] == expected
    assert [result.budget for result in results] == ['0.8', '0.5']
    for result in results:
        subnet = pruner.load_channel_cfg(load_channel_cfg(Path(result.channel_cfg)))
        assert pruner.cost(subnet) == {'macs': result.macs, 'params': result.params}
    listed = json.loads((tmp_path / 'search' / 'search_results.json').read_text())
    assert [each['macs'] for each in listed] == expected
    history = read_candidates(tmp_path / 'search')
    assert [{'macs': e.macs, 'params': e.params} for e in history] == predictable


def cost(pruner: Any, kept: dict[str, int]) -> int:
    bins = {s: torch.tensor([1.0] * n + [0.0] * (4 - n)) for s, n in kept.items()}
    return pruner.cost(pruner.bins_to_subnet(bins, 4))['macs']


def test_greedy_search_with_more_bins_than_channels(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    # The narrowest groups have 8 channels: a third of the 12 bins are empty.
    search(untrained, targets=[0.9], max_channel_bins=12)
    history = read_candidates(tmp_path / 'search')
    full = history[0].channels
    assert min(full.values()) == 8
    first_round = [each for each in history if each.origin.startswith('round 1,')]
    assert len(first_round) == len(full)
    for each in first_round:
        # One group is narrower, by one channel, or by two of 32.
        lost = [full[space_id] - kept for space_id, kept in each.channels.items()]
        assert sorted(lost)[:-1] == [0] * (len(full) - 1)
        assert 1 <= max(lost) <= 3


def test_evolution_never_evaluates_what_is_over_the_budget(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    limits = {'macs': 0.4, 'params': 20000}
    (result,) = search(untrained, **{**EVOLUTION, 'constraints': limits})

    algorithm = build_algorithm(load_config(CONFIG), untrained)
    full = algorithm.pruner.cost(algorithm.pruner.current_subnet())
    assert len(predictable) > 10
    assert all(each['macs'] <= 0.4 * full['macs'] for each in predictable)
    assert all(each['params'] <= 20000 for each in predictable)
    history = read_candidates(tmp_path / 'search')
    assert result.metric == max(each.metric for each in history)
    assert [each.origin for each in history][:2] == ['uniform', 'NSGAII 1']
    assert len({each.key for each in history}) == len(history)


def test_evolution_finds_better_subnets_than_it_starts_with(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    (result,) = search(untrained, **EVOLUTION)
    history = read_candidates(tmp_path / 'search')
    first = [each.metric for each in history[:6]]
    assert result.metric > max(first)


def test_several_budgets_give_several_subnets(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    budgets = [{'macs': 0.6}, {'params': 0.5}]
    results = search(untrained, **{**EVOLUTION, 'constraints': budgets, 'max_epochs': 2})
    assert [result.budget for result in results] == ['0.6', '0.5_params']
    assert (tmp_path / 'search' / 'subnet_0.5_params.yaml').is_file()


@pytest.mark.parametrize('kind', ['greedy', 'evolution'])
def test_a_search_that_was_stopped_resumes_to_the_same_result(
    trained: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = EVOLUTION if kind == 'evolution' else {'targets': [0.8, 0.7]}
    whole = search(trained, 'whole', **settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 11)
        with pytest.raises(InterruptedSearchError):
            search(trained, 'stopped', **settings)
    first = read_candidates(tmp_path / 'stopped')
    assert len(first) == 11
    # A kill in the middle of a write leaves half a line.
    with (tmp_path / 'stopped' / 'study.journal').open('a') as file:
        file.write('{"op_code": 4, "wor')
    torch.manual_seed(123)

    resumed = search(trained, 'stopped', resume=True, **settings)

    for a, b in zip(whole, resumed, strict=True):
        assert (a.macs, a.params, a.metric) == (b.macs, b.params, b.metric)
        assert Path(a.channel_cfg).read_text() == Path(b.channel_cfg).read_text()
    found = read_candidates(tmp_path / 'stopped')
    assert found[:11] == first
    assert unnumbered(found) == unnumbered(read_candidates(tmp_path / 'whole'))
    # The metric is not the same everywhere, or this would prove nothing.
    assert len({each.metric for each in found}) > 1


def test_resuming_with_another_supernet_is_refused(
    trained: Path, untrained: Path, search: Search, predictable: list[dict[str, int]]
) -> None:
    search(untrained, targets=[0.9])
    with pytest.raises(InputError, match='weights changed'):
        search(trained, targets=[0.9], resume=True)


def test_the_metric_of_a_result_is_its_accuracy_with_norm_statistics_of_its_own(
    trained: Path, search: Search
) -> None:
    (result,) = search(trained, targets=[0.6])
    cfg = load_config(CONFIG)
    algorithm = build_algorithm(cfg, trained)
    pruner = algorithm.pruner
    pruner.set_subnet(pruner.load_channel_cfg(load_channel_cfg(Path(result.channel_cfg))))
    algorithm.recalibrate(calibration_batches(cfg, algorithm.recalibration))
    assert predict_dataset(algorithm, cfg.val_dataloader).accuracy == pytest.approx(result.metric)


def test_the_supernet_is_as_it_was_after_a_search(
    trained: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    run = GreedySearchLoop.run

    def watched(loop: GreedySearchLoop) -> Any:
        for action in (None, run):
            if action is not None:
                result = action(loop)
            states.append({k: v.clone() for k, v in loop.algorithm.state_dict().items()})
        return result

    monkeypatch.setattr(GreedySearchLoop, 'run', watched)
    search(trained, targets=[0.8])
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'targets': [0.01]}, 'No subnet is within the budget'),
        ({'targets': []}, 'at least one target'),
        ({'max_channel_bins': 1}, 'min_channel_bins < max_channel_bins'),
        (
            {'max_channel_bins': 4, 'min_channel_bins': 1},
            r"never trained: 1 of 4 bins keep 2 channels of 'backbone\.conv1', which is trained "
            r'at 4 or more\. Leave min_channel_bins out, or give 2 or more',
        ),
        ({'max_chanel_bins': 4}, "no option 'max_chanel_bins'; did you mean 'max_channel_bins'"),
        ({'metric': 'accuracy/top7'}, "compares 'accuracy/top7'.*accuracy/top1"),
        ({'rule': 'more'}, "rule: expected 'auto' or 'greater' or 'less', found 'more'"),
        ({**EVOLUTION, 'constraints': {'macs': 0.01}}, 'No subnet is within the budget'),
        ({**EVOLUTION, 'num_mutation': 5}, 'more than the population_size of 6'),
        ({**EVOLUTION, 'mutate_prob': 0}, r'mutate_prob must be in \(0, 1\]'),
        ({**EVOLUTION, 'top_k': 0}, "'top_k': 0"),
    ],
)
def test_settings_that_make_no_sense(
    untrained: Path, search: Search, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(untrained, **settings)
    assert not list((tmp_path / 'search').glob('subnet*'))


def test_a_search_says_what_it_expects(
    untrained: Path, search: Search, predictable: list[dict[str, int]], tmp_path: Path
) -> None:
    """No search of this kind evaluates more; this one narrows one group after the other."""
    search(untrained, targets=[0.3], max_channel_bins=4)
    said = logged(tmp_path / 'search', 'GreedySearchLoop: up to about ')
    expected = int(said.split()[0])
    assert len(predictable) <= expected <= 1.5 * len(predictable)
    assert 's at full width, so all of them ' in said
    predictable.clear()
    search(untrained, 'evolution', **EVOLUTION)
    said = logged(tmp_path / 'evolution', 'EvolutionSearchLoop: up to about ')
    assert said.startswith('18 candidates')
    assert len(predictable) <= 18
    search(untrained, 'evolution', True, **EVOLUTION)
    said = logged(tmp_path / 'evolution', 'EvolutionSearchLoop: up to about ')
    assert int(said.split()[0]) == 18 - len(predictable)


def logged(folder: Path, start: str) -> str:
    """What the newest log of a folder says after ``start``, to the end of the line."""
    (*_, log) = sorted(folder.rglob('*.log'))
    return log.read_text().rpartition(start)[2].splitlines()[0]


@pytest.mark.parametrize(
    ('seconds', 'text'), [(3.2, '3 s'), (119, '119 s'), (121, '2 min'), (7300, '2 h')]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_config_without_search_is_refused(untrained: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    cfg.search_cfg = None
    with pytest.raises(InputError, match=r'autoslim_resnet.*a search needs search_cfg'):
        search_subnet(cfg, untrained, tmp_path / 'search')
    assert not (tmp_path / 'search').exists()


def test_a_loop_that_does_not_search_is_refused(untrained: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    cfg.search_cfg = dict(type='mmengine.ValLoop')
    told = r"type is mmengine.ValLoop, which is no search loop; there are .*'GreedySearchLoop'"
    with pytest.raises(InputError, match=told):
        search_subnet(cfg, untrained, tmp_path / 'search')


@pytest.mark.parametrize('compensation', [None, 'LeastSquares'])
def test_a_trained_plain_network_is_searched(
    trained: Path, tmp_path: Path, compensation: str | None
) -> None:
    """By importance and norm recalibration, or after compensation, as it is deployed."""
    cfg = load_config(CONFIG)
    cfg.model = dict(cfg.model.architecture, data_preprocessor=cfg.data_preprocessor)
    images = dict(num_batches=2, batch_size=32)
    cfg.search_cfg = dict(
        type='mmprune.SearchLoop',
        sampler='TPE',
        constraints=dict(macs=0.5),
        candidates=4,
        recalibration=images,
        compensation=compensation and dict(type=compensation, images=images),
    )
    weights = torch.load(trained, weights_only=False)['state_dict']
    plain = {
        key.removeprefix('architecture.'): value
        for key, value in weights.items()
        if key.startswith('architecture.') and not key.endswith(('in_mask', 'out_mask'))
    }
    torch.save({'state_dict': plain}, tmp_path / 'plain.pth')
    (result,) = search_subnet(cfg, tmp_path / 'plain.pth', tmp_path / 'search')
    history = read_candidates(tmp_path / 'search')
    assert len(history) == 4

    supernet = searchable_config(cfg)
    algorithm = build_algorithm(supernet, tmp_path / 'plain.pth')
    pruner = algorithm.pruner
    assert max(map(len, pruner.search_space().values())) == 8
    assert isinstance(pruner.importance, L1Importance)
    pruner.set_subnet(pruner.load_channel_cfg(load_channel_cfg(Path(result.channel_cfg))))
    batches = calibration_batches(supernet, Recalibration(**images))
    network = algorithm
    if compensation:
        network = pruner.deploy_subnet(algorithm.architecture)
        inputs = [algorithm.data_preprocessor(batch, False)['inputs'] for batch in batches]
        pruner.compensate(network, inputs, compensation)
    else:
        algorithm.recalibrate(batches)
    found = predict_dataset(network.eval(), cfg.val_dataloader).accuracy
    assert found == pytest.approx(result.metric)

    files = deploy_subnet(cfg, tmp_path / 'plain.pth', result.channel_cfg, tmp_path / 'deployed')
    assert files.verified.ok


def test_the_loops_are_in_the_registry() -> None:
    from mmprune.registry import LOOPS

    assert LOOPS.get('mmprune.GreedySearchLoop') is GreedySearchLoop
    assert LOOPS.get('mmprune.EvolutionSearchLoop') is EvolutionSearchLoop
