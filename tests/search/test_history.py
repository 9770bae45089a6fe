import json
from pathlib import Path

import pytest
import torch

from mmprune.errors import InputError, MissingFileError
from mmprune.search.history import (
    Evaluation,
    SearchHistory,
    read_history,
    subnet_key,
    weights_key,
)

SETTINGS = {'seed': 0, 'bins': (1, 2)}


def evaluation(index: int) -> Evaluation:
    return Evaluation(index, 'random', f'key{index}', 10, 5, 0.1 + index, {'conv': 3})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    history = SearchHistory(tmp_path / 'history.jsonl', SETTINGS)
    for index in range(3):
        history.add(evaluation(index))
    return history.path


def test_evaluations_are_on_disk_at_once_and_found_again(written: Path) -> None:
    assert read_history(written, SETTINGS) == [evaluation(index) for index in range(3)]
    resumed = SearchHistory(written, SETTINGS, resume=True)
    assert resumed.num_resumed == len(resumed) == 3
    assert resumed.find('key1') == evaluation(1)
    assert resumed.find('key9') is None


def test_half_a_line_at_the_end_is_dropped(written: Path) -> None:
    with written.open('a') as file:
        file.write(json.dumps({'index': 3, 'origin': 'random'})[:20])
    resumed = SearchHistory(written, SETTINGS, resume=True)
    assert len(resumed) == 3
    resumed.add(evaluation(3))
    assert read_history(written) == [evaluation(index) for index in range(4)]


def test_a_new_search_keeps_the_old_file(written: Path) -> None:
    old = written.read_text()
    SearchHistory(written, SETTINGS)
    assert read_history(written) == []
    assert written.with_name('history.jsonl.old').read_text() == old


def test_other_processes_do_not_write(tmp_path: Path) -> None:
    history = SearchHistory(tmp_path / 'history.jsonl', SETTINGS, is_writer=False)
    history.add(evaluation(0))
    assert history.find('key0') == evaluation(0)
    assert not list(tmp_path.iterdir())


def test_a_search_with_other_settings_is_not_resumed(written: Path) -> None:
    before = written.read_text()
    with pytest.raises(InputError, match=r'seed changed \(seed was 0, is 1\)'):
        SearchHistory(written, {**SETTINGS, 'seed': 1}, resume=True)
    assert written.read_text() == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match='leave out --resume'):
        SearchHistory(tmp_path / 'history.jsonl', SETTINGS, resume=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', ['', 'PK\x03\x04\n', '{"format": "other"}\n', '[]\n{}\n'])
def test_other_files_are_no_histories(tmp_path: Path, content: str) -> None:
    path = tmp_path / 'history.jsonl'
    path.write_text(content)
    with pytest.raises(InputError, match=r'history.jsonl: not the history of a search'):
        SearchHistory(path, SETTINGS, resume=True)
    assert path.read_text() == content


def test_a_subnets_key_depends_on_its_channels_only() -> None:
    first = {'a': torch.tensor([1.0, 0.0]), 'b': torch.ones(1, 3)}
    same = {'b': torch.ones(3, dtype=torch.bool), 'a': torch.tensor([[1, 0]])}
    other = {'a': torch.tensor([0.0, 1.0]), 'b': torch.ones(3)}
    assert subnet_key(first) == subnet_key(same) != subnet_key(other)


def test_the_key_of_weights_leaves_out_the_masks() -> None:
    state = {'w': torch.randn(2, 3), 'n': torch.tensor(1), 'conv.out_mask': torch.ones(2)}
    key = weights_key(state)
    state['conv.out_mask'] = torch.zeros(2)
    assert weights_key(state) == key
    state['w'] = state['w'] + 1
    assert weights_key(state) != key
