"""Training batches of every code base reach recalibration and losses as training has them."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData, PixelData
from mmyolo.datasets.utils import yolov5_collate
from tiny_models import TINY, prepared, tiny
from torch.utils.data import Dataset

from mmprune.errors import InputError
from mmprune.models import AutoSlim, Recalibration
from mmprune.models.algorithm import calibration_batches
from mmprune.models.norm_statistics import norms_with_statistics
from mmprune.models.training_data import collate_function, training_data, training_loss
from mmprune.registry import DATASETS

SIZES = ((64, 96), (96, 64))


def items(name: str, sizes: Any = SIZES) -> list[dict[str, Any]]:
    """Items of a dataset: images of different sizes with what the code base learns from."""
    package, found = TINY[name][0], []
    for number, (height, width) in enumerate(sizes):
        random = np.random.default_rng(number)
        image = torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        sample: Any
        if package == 'mmseg':
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            pixels = torch.from_numpy(random.integers(0, 19, (1, height, width)))
            sample.gt_sem_seg = PixelData(data=pixels)
        else:
            from mmdet.structures import DetDataSample
            from mmdet.structures.bbox import HorizontalBoxes

            sample = DetDataSample(metainfo=meta)
            boxes, labels = HorizontalBoxes([[8.0, 8.0, 50.0, 40.0]]), torch.tensor([number])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        found.append(dict(inputs=image, data_samples=sample))
    return found


@DATASETS.register_module()
class ItemsOfFamily(Dataset):
    """A dataset that brings its collate function, as mmyolo's do."""

    def __init__(self, name: str, sizes: Any) -> None:
        FUNCTIONS.register_module(module=yolov5_collate, force=True)
        self.items = items(name, sizes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.items[number]


def batches(name: str, collate: str | None = None, sizes: Any = SIZES) -> list[Any]:
    """The batches of a config whose dataset has two images."""
    loader = dict(
        dataset=dict(type='ItemsOfFamily', _scope_='mmprune', name=name, sizes=sizes), batch_size=2
    )
    if collate:
        loader['collate_fn'] = dict(type=collate)
    return calibration_batches(Config(dict(train_dataloader=loader)), Recalibration())


def test_images_of_different_sizes_are_padded_and_norms_recalibrated() -> None:
    """Of mmseg, whose preprocessor pads in training mode only."""
    network = tiny('PSPNet')
    network.data_preprocessor.size = (96, 96)
    pruner = dict(type='RatioPruner', ratios=[0.5, 1.0])
    algorithm = AutoSlim(network, pruner, input_shape=(1, 3, 64, 64))
    (batch,) = batches('PSPNet')
    norm = norms_with_statistics(network)[0]
    before = norm.running_mean.clone()
    assert algorithm.recalibrate([batch]) == 2
    assert not torch.equal(before, norm.running_mean)
    assert {tuple(each.shape) for each in batch['inputs']} == {(3, *size) for size in SIZES}
    assert training_loss(network, batch).isfinite()


def test_a_detector_of_two_stages_is_recalibrated_and_has_a_loss() -> None:
    model, _, _ = prepared('Faster R-CNN')
    model.float()
    (batch,) = batches('Faster R-CNN')
    pruner = dict(type='RatioPruner', ratios=[0.5, 1.0])
    algorithm = AutoSlim(model, pruner, input_shape=(1, 3, 64, 64))
    assert algorithm.recalibrate([batch]) == 2
    loss = training_loss(model, batch)
    assert loss.isfinite()
    assert torch.equal(loss, training_loss(model, batch))
    assert not model.training


def test_a_detector_of_two_stages_is_compensated_with_several_batches() -> None:
    """Passes of several batches wait for each other at every layer, in the second stage too."""
    model, pruner, (road, *_) = prepared('Faster R-CNN')
    pruner.set_subnet(pruner.sample_subnet())
    small = pruner.deploy_subnet(model)
    data = [torch.randn(count, 3, 64, 64, dtype=torch.float64) for count in (2, 1)]
    report = pruner.compensate(small, data, forward=road.run)
    second_stage = 'roi_head.bbox_head.shared_fcs.1'
    assert second_stage in report.treated
    assert report.treated[second_stage].after < report.treated[second_stage].before
    assert 'predict_by_feat' not in vars(model.rpn_head)
    assert 'predict_by_feat' not in vars(small.rpn_head)
    assert torch.get_default_dtype() is torch.float32


def test_a_collate_function_is_found_that_the_dataset_brings() -> None:
    FUNCTIONS.module_dict.pop('yolov5_collate', None)
    with pytest.raises(InputError, match="there is no function 'yolov5_collate'"):
        collate_function(dict(type='yolov5_collate'))
    (batch,) = batches('YOLOv8', 'yolov5_collate', [(64, 64), (64, 64)])
    assert isinstance(batch['data_samples'], dict)
    model = tiny('YOLOv8')
    labels = batch['data_samples']['bboxes_labels'].clone()
    # Its head gives what the loss needs in training mode only.
    assert training_loss(model, batch).isfinite()
    assert not model.bbox_head.head_module.training
    assert torch.equal(labels, batch['data_samples']['bboxes_labels'])


def test_batches_are_resized_together_and_nothing_is_remembered() -> None:
    """By a batch augmentation that asks which iteration it is."""
    from mmyolo.models import PPYOLOEDetDataPreprocessor

    augment = dict(
        type='mmyolo.PPYOLOEBatchRandomResize', random_size_range=(64, 96), size_divisor=32
    )
    preprocessor = PPYOLOEDetDataPreprocessor(
        mean=[0.0] * 3, std=[255.0] * 3, pad_size_divisor=32, batch_augments=[augment]
    )
    collated = yolov5_collate(items('YOLOv8'), use_ms_training=True)
    first = training_data(preprocessor, collated)['inputs']
    assert torch.equal(first, training_data(preprocessor, collated)['inputs'])
    assert first.shape[2] % 32 == 0
    assert preprocessor.batch_augments[0]._input_size is None
    assert 'iter' not in MessageHub.get_current_instance().runtime_info
