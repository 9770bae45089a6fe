"""Searches in several processes, which share their work and are killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from postgres import Server, running
from two_processes import in_two_processes

from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.search import Evaluation, SearchLoop, read_candidates, study
from mmprune.search.history import read_history
from mmprune.search.storage import StorageError
from mmprune.search.study import Study

# As often as is wished: KILLS=50 pytest tests/search/test_workers.py -k killed
KILLS = int(os.environ.get('KILLS', '3'))
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
OPTUNA = {'type': 'mmprune.OptunaSearchLoop', 'constraints': {'macs': 0.5}, 'candidates': 12}
GREEDY = {'type': 'mmprune.GreedySearchLoop', 'targets': [0.8], 'max_channel_bins': 4}
# Children begin with what is imported here.
FORK = multiprocessing.get_context('fork')


@pytest.fixture(scope='module')
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


def searched(checkpoint: Path, folder: Path, search_cfg: dict[str, Any], **where: Any) -> Any:
    cfg = load_config(CONFIG)
    cfg.search_cfg = search_cfg
    return search_subnet(cfg, checkpoint, folder, **where)


def alike(found: list[Evaluation]) -> list[Evaluation]:
    """Evaluations without what differs between two searches that find the same."""
    return [replace(each, index=0, worker='') for each in found]


def kept(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
    """More of the later groups is better."""
    value = sum(number * int(mask.sum()) for number, mask in enumerate(subnet.values()))
    return {'accuracy/top1': float(value)}


def dies_in_its_second(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
    time.sleep(0.1)
    loop.begun = getattr(loop, 'begun', 0) + 1
    if loop.begun == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(loop, subnet)


def takes_time(loop: SearchLoop, subnet: dict[str, torch.Tensor]) -> dict[str, float]:
    time.sleep(0.1)
    return kept(loop, subnet)


@pytest.mark.parametrize(
    ('search_cfg', 'database'), [(OPTUNA, False), (GREEDY, False), (OPTUNA, True)]
)
def test_workers_share_a_search_and_one_is_killed(
    untrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    search_cfg: dict[str, Any],
    database: bool,
) -> None:
    server = request.getfixturevalue('postgres') if database else None
    where = str(tmp_path / 'shared.journal') if server is None else server.url
    barrier, workers = FORK.Barrier(2), []
    # They begin together, when both are ready.
    monkeypatch.setattr(SearchLoop, '_announce', lambda loop: barrier.wait(120))
    for name, measure in (('lives', takes_time), ('dies', dies_in_its_second)):
        monkeypatch.setattr(SearchLoop, '_measure', measure)
        worker = FORK.Process(
            target=searched,
            args=(untrained, tmp_path / name, search_cfg),
            kwargs=dict(storage=where),
        )
        worker.start()
        workers.append(worker)
    for worker in workers[::-1]:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL]
    found = read_candidates(where)
    assert len({each.key for each in found}) == len(found)
    assert len({each.worker for each in found}) == 2
    monkeypatch.undo()
    monkeypatch.setattr(SearchLoop, '_measure', kept)
    (alone,) = searched(untrained, tmp_path / 'alone', search_cfg)
    results = json.loads((tmp_path / 'lives' / 'search_results.json').read_text())
    if search_cfg is GREEDY:
        assert (results[0]['metric'], results[0]['macs']) == (alone.metric, alone.macs)
        assert {each.key for each in found} == {
            each.key for each in read_candidates(tmp_path / 'alone')
        }
    else:
        assert len(found) == 12
        assert results[0]['metric'] == max(each.metric for each in found)
        # The one that lives began with the search's seed, or the one that died did.
        assert found[0].origin == 'uniform'


def test_a_search_that_is_killed_again_and_again_ends_alike(
    untrained: Path, tmp_path: Path
) -> None:
    """By a signal that no process can catch, at moments that nobody has chosen."""
    folder, moments = tmp_path / 'killed', random.Random(KILLS)
    journal = folder / 'study.journal'
    search_cfg = {**OPTUNA, 'candidates': 8 + 2 * KILLS}
    known: list[Evaluation] = []

    def lines() -> int:
        return journal.read_bytes().count(b'\n') if journal.is_file() else 0

    for _ in range(KILLS):
        worker = FORK.Process(
            target=searched,
            args=(untrained, folder, search_cfg),
            kwargs=dict(resume=journal.is_file()),
        )
        worker.start()
        # Three lines are written for a candidate.
        enough = lines() + moments.randrange(12)
        while worker.is_alive() and lines() < enough:
            time.sleep(0.002)
        time.sleep(moments.choice([0, 0.01, 0.1]))
        worker.kill()
        worker.join()
        if lines() > 1:
            found = read_candidates(folder)
            assert found[: len(known)] == known
            known = found
        for path in folder.glob('*.yaml'):
            load_channel_cfg(path)
    (resumed,) = searched(untrained, folder, search_cfg, resume=journal.is_file())
    searched(untrained, tmp_path / 'whole', search_cfg)
    whole = read_candidates(tmp_path / 'whole')
    assert known
    assert alike(read_candidates(folder)) == alike(whole)
    channel_cfg = load_channel_cfg(tmp_path / 'whole' / 'subnet_0.5.yaml')
    assert load_channel_cfg(resumed.channel_cfg) == channel_cfg


def test_a_database_that_is_lost_is_told_and_nothing_else_is(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, 'RETRIES', (0.01,))
    candidates = [
        Evaluation(-1, 'random', f'key{number}', 10, 5, None, {'conv': 3}) for number in range(2)
    ]

    def opened() -> Study:
        return Study(postgres.url, 'lost', {}, ['maximize'], tmp_path)

    worker = opened()
    for each in candidates:
        index = worker.claim(each)
        assert index is not None
        result = replace(each, index=index, metric=0.5)
        if index == 0:
            worker.finish(result, [0.5])
    postgres.stop()
    try:
        with pytest.raises(StorageError, match=r'postgresql.*OperationalError.*--import'):
            worker.finish(result, [0.5])
    finally:
        postgres.start()
    (path,) = tmp_path.glob('unsaved_*.jsonl')
    again = opened()
    assert [*again.evaluations] == ['key0']
    again.add([(each, [0.5]) for each in read_history(path)])
    assert [each.key for each in read_candidates(postgres.url, 'lost')] == ['key0', 'key1']
    worker.refresh()  # it finds the server again
    assert [*worker.evaluations] == ['key0', 'key1']
    worker.close()
    again.close()


def test_launched_processes_are_one_worker(untrained: Path, tmp_path: Path) -> None:
    """They divide the images, and agree on what is proposed and found."""
    cfg = load_config(CONFIG)
    cfg.search_cfg = {**OPTUNA, 'candidates': 4}
    cfg.dump(tmp_path / 'search.py')
    arguments = [str(tmp_path / 'search.py'), str(untrained), str(tmp_path / 'launched')]
    in_two_processes(Path(__file__).with_name('launched_search.py'), *arguments)
    searched(untrained, tmp_path / 'alone', cfg.search_cfg)
    found, alone = read_candidates(tmp_path / 'launched'), read_candidates(tmp_path / 'alone')
    assert [each.key for each in found] == [each.key for each in alone]
    for one, other in zip(found, alone, strict=True):
        assert one.metrics == pytest.approx(other.metrics)
    assert len({each.worker for each in found}) == 1


def test_a_search_of_an_earlier_version_is_imported(untrained: Path, tmp_path: Path) -> None:
    """It goes on where that one was, and proposes nothing again."""
    searched(untrained, tmp_path / 'whole', OPTUNA)
    whole = read_candidates(tmp_path / 'whole')
    later = ('budget', 'asked', 'noted', 'worker')
    earlier = [{k: v for k, v in vars(each).items() if k not in later} for each in whole[:7]]
    header = {'format': 'mmprune search history 1', 'settings': None}
    path = tmp_path / 'search_history.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in [header, *earlier]))
    searched(untrained, tmp_path / 'search', OPTUNA, imported=path)
    found = read_candidates(tmp_path / 'search')
    assert [each.key for each in found] == [each.key for each in whole]
    assert [each.metrics for each in found] == [each.metrics for each in whole]
