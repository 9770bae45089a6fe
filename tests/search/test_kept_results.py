"""What earlier searches have found is kept, and gone on with only by the same search."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmprune.errors import InputError
from mmprune.search.history import check_settings, configs_of
from mmprune.search.storage import JOURNAL, presence


def test_a_new_search_keeps_what_earlier_ones_have_left(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL
    (tmp_path / 'own.yaml').write_text('of the user')
    for number in (0, 1, 2):
        results = json.dumps([{'channel_cfg': '/elsewhere/subnet_0.5.yaml'}])
        with presence(journal, anew=True):
            assert {path.name for path in tmp_path.glob('*.*')} == {'own.yaml', '.mmprune_lock'}
            journal.write_text(f'study {number}')
            (tmp_path / 'subnet_0.5.yaml').write_text(f'subnet {number}')
            (tmp_path / 'search_results.json').write_text(results)
    for number in (0, 1):
        kept = tmp_path / f'earlier_{number + 1}'
        assert (kept / JOURNAL).read_text() == f'study {number}'
        assert (kept / 'search_results.json').read_text() == results
        assert (kept / 'subnet_0.5.yaml').read_text() == f'subnet {number}'
    with presence(journal, anew=False):
        assert journal.read_text() == 'study 2'


def test_a_search_without_a_study_starts_anew(tmp_path: Path) -> None:
    journal = tmp_path / 'new' / JOURNAL
    with presence(journal, anew=False):
        assert not journal.exists()


def test_others_join_by_resuming_alone(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL
    with presence(journal, anew=True):
        journal.write_text('study')
        with presence(journal, anew=False):
            message = 'a search goes on here in process .+ --resume'
            with pytest.raises(InputError, match=message), presence(journal, anew=True):
                pass
        assert journal.read_text() == 'study'


def configs(size: int = 8, train: int = 8, mean: float = 1.0, kind: str = 'top1') -> dict[str, Any]:
    cfg = dict(
        model=dict(type=Path, head=lambda: 0),
        data_preprocessor=dict(mean=[mean]),
        train_dataloader=dict(dataset=dict(size=train), batch_size=4, num_workers=train),
    )
    loader = dict(dataset=dict(pipeline=[dict(type='Resize', size=(size, size))]), num_workers=size)
    return configs_of(cfg, loader, [dict(type='Accuracy', metric=kind)])


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(size=6), r'images.dataset.pipeline.0.size.0 was 8, is 6'),
        (dict(mean=2.0), r'data_preprocessor.mean.0 was 1.0, is 2.0'),
        (dict(train=9), r'training_images.dataset.size was 8, is 9'),
        (dict(kind='top5'), r'evaluator.0.metric was top1, is top5'),
    ],
)
def test_what_changed_is_named_to_the_last_key(changed: dict[str, Any], message: str) -> None:
    stored = json.loads(json.dumps(configs()))
    check_settings('study', configs(), stored)
    with pytest.raises(InputError, match=message):
        check_settings('study', configs(**changed), stored)
