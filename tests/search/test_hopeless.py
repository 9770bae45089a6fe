"""Candidates that are left after a few batches: which, and what comes of the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.search import read_candidates
from mmprune.search.judging import JudgingLoop
from mmprune.search.sampling import Hopeless

Search = Callable[..., Any]
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
OPTUNA = {'type': 'mmprune.OptunaSearchLoop', 'constraints': {'macs': 0.5}, 'candidates': 12}
STRICT = {'type': 'Percentile', 'percentile': 20.0, 'after': [1, 2], 'n_startup_trials': 3}
EARLY = ('accuracy/top1 of 10 images', 'accuracy/top1 of 20 images')


def others(*values: float) -> list[tuple[dict[int, float], float]]:
    """Candidates whose first batches came to what all of them came to."""
    return [({2: value}, value) for value in values]


@pytest.mark.parametrize('name', ['Median', 'MedianPruner'])
def test_what_is_worse_than_most_is_hopeless(name: str) -> None:
    judge = Hopeless(name, after=2, n_startup_trials=3)
    assert not judge.is_hopeless({2: 9.0}, others(1.0, 2.0))  # too few to tell
    assert judge.is_hopeless({2: 2.5}, others(1.0, 2.0, 3.0))
    assert not judge.is_hopeless({2: 1.5}, others(1.0, 2.0, 3.0))
    assert not judge.is_hopeless({}, others(1.0, 2.0, 3.0))  # nothing detected, so far
    left = [({2: 9.0}, float('inf'))] * 3
    assert judge.is_hopeless({2: 2.5}, [*left, *others(1.0, 2.0, 3.0)])  # these do not count


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each measurement takes, the last ones of the results too."""
    taken: list[int] = []
    shown = JudgingLoop._shown

    def counted(loop: JudgingLoop, network: Any) -> Any:
        taken.append(0)
        for images in shown(loop, network):
            taken[-1] += 1
            yield images

    monkeypatch.setattr(JudgingLoop, '_shown', counted)
    return taken


def test_looks_change_nothing(trained: Path, search: Search, tmp_path: Path) -> None:
    images = dict(load_config(CONFIG).val_dataloader, batch_size=10)
    options = {**OPTUNA, 'candidates': 2, 'dataloader': images}
    search(trained, 'whole', **options)
    search(trained, hopeless=dict(after=[1, 2]), **options)
    whole, looked = (read_candidates(tmp_path / folder) for folder in ('whole', 'search'))
    assert [each.metric for each in looked] == [each.metric for each in whole]
    assert [[*each.metrics] for each in looked] == [['accuracy/top1', *EARLY]] * 2
    assert len({*looked[0].metrics.values()}) > 1


def test_a_search_leaves_the_hopeless(
    untrained: Path,
    search: Search,
    tmp_path: Path,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def evaluated(loop: JudgingLoop, images: int) -> dict[str, float]:
        subnet = loop.pruner.current_subnet()
        loop.evaluator.evaluate(images)
        kept = sum(number * float(mask.sum()) for number, mask in enumerate(subnet.values()))
        return {'accuracy/top1': kept + images}

    monkeypatch.setattr(JudgingLoop, '_evaluated', evaluated)
    images = dict(load_config(CONFIG).val_dataloader, batch_size=10)
    options = {'dataloader': images, 'hopeless': STRICT, **OPTUNA}
    (result,) = search(untrained, **options)
    found = read_candidates(tmp_path / 'search')
    assert [each.metric is None for each in found] == [taken < 6 for taken in batches[:-1]]
    assert {1, 6} <= set(batches)
    assert batches[-1] == 6  # what was found is measured again, whole
    assert result.metric == result.again == max(e.metric for e in found if e.metric is not None)
    for number, each in enumerate(found):
        if each.metric is not None:
            assert set(EARLY) < set(each.metrics)
            continue
        name = [*each.metrics][-1]  # where it was left
        known = [other.metrics[name] for other in found[:number] if other.metric is not None]
        assert len(known) >= 3
        assert max(each.metrics.values()) < np.percentile(known, 80)  # the best so far
    assert search(untrained, resume=True, **options) == [result]
    assert read_candidates(tmp_path / 'search') == found


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'hopeless': {'type': 'Mean'}}, 'optuna.pruners has no MeanPruner; did you mean'),
        ({'hopeless': {'percentile': 1}}, "MedianPruner.* has no option 'percentile'"),
        ({'hopeless': {'type': 'Percentile'}}, 'PercentilePruner.* needs percentile'),
        ({'hopeless': {'after': 0}}, 'hopeless.after must be 1 batch or more.*not 0'),
        ({'hopeless': 3}, 'search_cfg: hopeless'),
        ({'hopeless': {}, 'objectives': ['metric', 'macs']}, 'leave out `hopeless`'),
    ],
)
def test_what_makes_no_sense(
    untrained: Path, search: Search, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(untrained, **{**OPTUNA, **settings})
