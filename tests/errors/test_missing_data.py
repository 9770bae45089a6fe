"""A dataset that is not there: one message that names the config, the folder and the way out."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmprune.commands.run import evaluate, train
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.errors import MissingFileError
from mmprune.missing_data import data_named
from mmprune.models import Recalibration
from mmprune.models.algorithm import calibration_batches

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


def elsewhere(**dataset: Any) -> Config:
    """The tiny supernet's config, with images in folders that do not exist."""
    cfg = load_config(CONFIG)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackClsInputs')]
    for part in ('train', 'val', 'test'):
        options = {'type': 'CustomDataset', 'data_root': f'data/{part}', **dataset}
        cfg[f'{part}_dataloader'].dataset = dict(pipeline=pipeline, **options)
    return cfg


@pytest.mark.parametrize(
    ('run', 'part'),
    [
        (lambda checkpoint: train(elsewhere(), 'out'), 'train'),
        (lambda checkpoint: evaluate(elsewhere(), checkpoint, 'out'), 'test'),
        (lambda checkpoint: search_subnet(elsewhere(), checkpoint, 'out'), 'val'),
        (lambda checkpoint: calibration_batches(elsewhere(), Recalibration(1, 8)), 'train'),
    ],
)
def test_the_folder_is_named(
    run: Any, part: str, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    DefaultScope._instance_dict.clear()  # mmengine names runs by the second
    with pytest.raises(
        MissingFileError,
        match=rf'digits\.py: the data of {part}_dataloader\.dataset cannot be read: data/{part} '
        rf'does not exist \(looked from .*--cfg-options {part}_dataloader\.dataset\.data_root=',
    ):
        run(untrained)


def test_lists_and_wrapped_datasets_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=r'data/train/meta/list\.txt does not exist'):
        calibration_batches(elsewhere(ann_file='meta/list.txt'), Recalibration(1, 8))
    cfg = elsewhere()
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    with pytest.raises(MissingFileError, match=r'train_dataloader\.dataset\.dataset cannot be'):
        calibration_batches(cfg, Recalibration(1, 8))


def test_a_folder_that_lacks_a_part_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'train').mkdir(parents=True)
    (tmp_path / 'data' / 'train' / 'list.txt').write_text('images/1.png 0\n')
    with pytest.raises(MissingFileError, match='data/train is there, but not all of it'):
        calibration_batches(elsewhere(ann_file='list.txt'), Recalibration(1, 8))


def test_other_files_keep_their_error() -> None:
    with pytest.raises(FileNotFoundError, match='weights') as caught, data_named(elsewhere()):
        raise FileNotFoundError('weights.bin')
    assert not isinstance(caught.value, MissingFileError)
