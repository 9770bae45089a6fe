from pathlib import Path

import pytest
import torch

from mmprune.errors import InputError, MissingFileError
from mmprune.search.history import (
    Evaluation,
    read_history,
    subnet_key,
    weights_key,
    write_history,
)

SETTINGS = {'seed': 0, 'bins': (1, 2)}


def evaluation(index: int) -> Evaluation:
    return Evaluation(index, 'random', f'key{index}', 10, 5, 0.1 + index, {'conv': 3})


EARLIER = """\
{"format": "mmprune search history 1", "settings": {"seed": 0, "bins": [1, 2]}}
{"index": 0, "origin": "uniform", "key": "key0", "macs": 10, "params": 5, "metric": 0.1, \
"channels": {"conv": 3}, "latency": null, "metrics": {}}
"""


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'search_history.jsonl'
    path.write_text(EARLIER + '{"index": 1, "orig')
    (first,) = read_history(path, SETTINGS)
    assert (first.origin, first.metric, first.asked) == ('uniform', 0.1, None)
    with pytest.raises(InputError, match=r'seed changed \(seed was 0, is 1\)'):
        read_history(path, {**SETTINGS, 'seed': 1})


def test_what_is_written_is_read_whatever_the_settings(tmp_path: Path) -> None:
    path = tmp_path / 'unsaved.jsonl'
    write_history(path, [evaluation(index) for index in range(2)])
    assert read_history(path, SETTINGS) == [evaluation(index) for index in range(2)]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match='history of a search: it does not exist'):
        read_history(tmp_path / 'history.jsonl')


@pytest.mark.parametrize('content', ['', 'PK\x03\x04\n', '{"format": "other"}\n', '[]\n{}\n'])
def test_other_files_are_no_histories(tmp_path: Path, content: str) -> None:
    path = tmp_path / 'history.jsonl'
    path.write_text(content)
    with pytest.raises(InputError, match=r'history.jsonl: not the history of a search'):
        read_history(path, SETTINGS)
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
