"""A study that several workers share: who evaluates what, who is dead, and what is written."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmprune.errors import InputError, MissingFileError
from mmprune.search import Evaluation, read_candidates, study
from mmprune.search.history import read_history
from mmprune.search.storage import RESULTS, StorageError, check_own_results, presence
from mmprune.search.study import Study

SETTINGS = {'seed': 0, 'bins': (1, 2)}


def candidate(number: int) -> Evaluation:
    return Evaluation(-1, 'random', f'key{number}', 10, 5, None, {'conv': 3}, noted={'a': 1})


def found(number: int, index: int) -> Evaluation:
    return replace(candidate(number), index=index, metric=0.5, metrics={'top1': 0.5, 'top5': 1.0})


@pytest.fixture
def where(tmp_path: Path) -> str:
    return str(tmp_path / 'study.journal')


def opened(where: str, **changes: object) -> Study:
    return Study(where, 'one', {**SETTINGS, **changes}, ['maximize'], Path(where).parent)


@pytest.fixture
def workers(where: str) -> tuple[Study, Study]:
    return opened(where), opened(where)


def evaluate(worker: Study, number: int) -> None:
    index = worker.claim(candidate(number))
    assert index is not None
    worker.finish(found(number, index), [0.5])


def test_what_one_worker_takes_the_others_leave(workers: tuple[Study, Study], where: str) -> None:
    one, other = workers
    assert one.claim(candidate(0)) == 0
    other.refresh()
    assert [*other.claims] == ['key0']
    assert other.claim(candidate(0)) is None
    assert other.claim(candidate(1)) == 2
    one.finish(found(0, 0), [0.5])
    other.refresh()
    assert [*other.claims] == ['key1']
    known = replace(other.evaluations['key0'], worker='')
    assert known == found(0, 0)
    assert other.claim(candidate(0)) is None
    assert [each.key for each in read_candidates(where)] == ['key0']


def test_of_two_that_take_the_same_the_first_has_it(workers: tuple[Study, Study]) -> None:
    one, other = workers
    read = other._read
    # The other one has written its trial before it sees the first one's, which is earlier.
    other._read = lambda: (one.claim(candidate(0)), read())
    assert other.claim(candidate(0)) == 0
    one.refresh()
    assert one._mine is None
    assert [*one.claims] == ['key0']


def test_what_was_given_up_may_be_taken_again(workers: tuple[Study, Study], where: str) -> None:
    one, other = workers
    one.claim(candidate(0))
    one.give_back()
    evaluate(other, 0)
    assert len(read_candidates(where)) == 1


def test_the_candidate_of_a_process_that_is_gone_is_free_at_once(where: str) -> None:
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    dead = opened(where)
    dead._me = f'{study._host()} {gone.pid} 0'
    dead.claim(candidate(0))
    evaluate(opened(where), 0)


def test_a_worker_elsewhere_is_dead_when_its_heart_stops(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, 'BEAT', 0.02)
    elsewhere, here = opened(where), opened(where)
    elsewhere._me = 'elsewhere 1 0'
    elsewhere.claim(candidate(0))
    now = [0.0]
    monkeypatch.setattr('mmprune.search.study.time.monotonic', lambda: now[0])
    for now[0] in (0.0, 50.0, 100.0):  # it beats meanwhile
        before = opened(where)._running['key0'].user_attrs.get('beat')
        while opened(where)._running['key0'].user_attrs.get('beat') == before:
            pass
        here.refresh()
        assert [*here.claims] == ['key0']
    elsewhere._quiet.set()
    now[0] = 100.0
    here.refresh()
    now[0] = 161.0
    evaluate(here, 0)
    # It was not dead: what it has found is not lost, and nothing is there twice.
    elsewhere.finish(found(0, 0), [0.5])
    assert [each.key for each in read_candidates(where)] == ['key0']


def test_what_was_found_before_the_last_word_is_known(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = opened(where)
    assert dead.claim(candidate(0)) == 0
    dead._storage.set_trial_user_attr(0, 'found', study._results(found(0, 0), [0.5]))
    dead._mine = None
    dead.refresh()
    assert dead.evaluations['key0'].metric == 0.5
    assert dead._storage.get_trial(0).values == [0.5]


def test_other_settings_are_another_search(where: str) -> None:
    evaluate(opened(where), 0)
    before = Path(where).read_text()
    with pytest.raises(InputError, match=r'study one: is of another search: seed changed.*--study'):
        opened(where, seed=1)
    assert Path(where).read_text() == before


def test_half_a_line_is_taken_off(where: str) -> None:
    evaluate(opened(where), 0)
    with Path(where).open('a') as file:
        file.write('{"op_code":4,"worker_id":"')
    assert len(read_candidates(where)) == 1
    evaluate(opened(where), 1)
    assert [each.key for each in read_candidates(where)] == ['key0', 'key1']
    assert all(json.loads(line) for line in Path(where).read_text().splitlines())


def test_a_full_disk_is_told_and_nothing_is_lost(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, 'RETRIES', (0.01,))
    worker = opened(where)
    evaluate(worker, 0)
    index = worker.claim(candidate(1))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The next write ends in the middle of a line; a small file still fits.
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(where).stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r'study.journal: the study.*add --import') as told:
            worker.finish(found(1, index), [0.5])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    (path,) = Path(where).parent.glob('unsaved_*.jsonl')
    assert str(path) in str(told.value)
    again = opened(where)
    assert [*again.evaluations] == ['key0']
    again.add([(each, [0.5]) for each in read_history(path, SETTINGS)])
    assert [each.key for each in read_candidates(where)] == ['key0', 'key1']
    assert replace(again.evaluations['key1'], worker='', index=1) == found(1, 1)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match='no such file of a search'):
        read_candidates(tmp_path)
    for other in ('{"format": "other"}\n', 'half a line', 'a: 1\nhalf'):
        (tmp_path / 'study.journal').write_text(other)
        for use in (read_candidates, opened):
            with pytest.raises(StorageError, match='not the study of a search'):
                use(str(tmp_path / 'study.journal'))
        assert (tmp_path / 'study.journal').read_text() == other
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(StorageError, match='is a device or a pipe'):
        opened(str(tmp_path / 'pipe'))
    with pytest.raises(StorageError, match=r'nobase://me:\*\*\*@here/x: the study cannot be read'):
        read_candidates('nobase://me:secret@here/x')
    (tmp_path / 'file').write_text('')
    with pytest.raises(StorageError, match='the study cannot be read or written'):
        opened(str(tmp_path / 'file' / 'study.journal'))


def test_a_storage_of_several_studies_asks_which(where: str, tmp_path: Path) -> None:
    evaluate(opened(where), 0)
    Study(where, 'two', SETTINGS, ['maximize'], tmp_path)
    with pytest.raises(InputError, match=r'which study. There are one, two'):
        read_candidates(where)
    assert len(read_candidates(where, 'one')) == 1


def test_two_studies_do_not_overwrite_each_others_results(where: str, tmp_path: Path) -> None:
    """Those of a work directory's own journal, and those whose storage is elsewhere."""
    evaluate(opened(where), 0)
    with pytest.raises(InputError, match=r"holds the study 'one', whose results those of 'two'"):
        Study(where, 'two', SETTINGS, ['maximize'], tmp_path, alone=True)
    assert len(read_candidates(where)) == 1
    check_own_results(tmp_path, 'one')
    (tmp_path / RESULTS).write_text(json.dumps([{'budget': '0.5', 'study': 'one'}]))
    check_own_results(tmp_path, 'one')
    with pytest.raises(InputError, match=r"'one in db', .*--work-dir DIR"):
        check_own_results(tmp_path, 'one', ['one in db'])
    with pytest.raises(InputError, match="holds the study 'one'"):
        check_own_results(tmp_path, 'one in db')


def test_candidates_are_of_the_weights_that_were_searched(where: str, tmp_path: Path) -> None:
    worker = Study(where, 'one', {'weights': 'abc'}, ['maximize'], tmp_path)
    evaluate(worker, 0)
    assert len(read_candidates(where, weights='abc')) == len(read_candidates(where)) == 1
    with pytest.raises(InputError, match='other weights than those of this checkpoint'):
        read_candidates(where, weights='def')


def test_a_new_study_begins_only_where_nobody_is_at_work(tmp_path: Path) -> None:
    journal = tmp_path / 'search' / 'study.journal'
    with presence(journal, anew=True):
        journal.write_text('mine')
        with presence(journal, anew=False):
            pass
        with (
            pytest.raises(InputError, match=r'a search goes on here.*--resume'),
            presence(journal, anew=True),
        ):
            pass
        assert journal.read_text() == 'mine'
    with presence(journal, anew=True):
        assert not journal.exists()
        assert (journal.parent / 'earlier_1' / journal.name).read_text() == 'mine'
