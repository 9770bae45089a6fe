"""Pruned detectors and segmenters that learn from the full ones."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from family_models import build_model
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmprune.errors import MissingFileError
from mmprune.models import ChannelWiseDivergence, L2Loss, distilled_model
from mmprune.randomness import stir
from mmprune.registry import PRUNERS
from mmprune.trace import Road

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
META = dict(
    img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64), scale_factor=(1.0, 1.0)
)
Losses = Mapping[str, dict[str, Any]]


def detection_samples() -> list[Any]:
    from mmdet.structures import DetDataSample

    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [10.0, 20.0, 60.0, 60.0]])
    instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    return [DetDataSample(gt_instances=instances.clone(), metainfo=META) for _ in IMAGES]


def segmentation_samples() -> list[Any]:
    from mmseg.structures import SegDataSample

    classes = torch.randint(0, 5, (1, 64, 64), generator=torch.Generator().manual_seed(0))
    return [SegDataSample(gt_sem_seg=PixelData(data=classes), metainfo=META) for _ in IMAGES]


def cut(model: nn.Module, samples: list[Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A copy with half of the channels, scattered ones, and its channel config."""
    pruner = PRUNERS.build(
        dict(type='RatioPruner', ratios=[0.5], importance=dict(type='RandomImportance', seed=0))
    )
    supernet = deepcopy(model)
    loss = dict(inputs=IMAGES, data_samples=samples, mode='loss')
    pruner.prepare_from_supernet(supernet, [IMAGES, Road('loss', loss, training=True)])
    pruner.set_subnet(pruner.sample_subnet())
    layers = pruner.export_subnet()
    return pruner.deploy_subnet(supernet, layers), layers


def taught(
    model: nn.Module, samples: list[Any], losses: Losses, **settings: Any
) -> tuple[Any, nn.Module, Any]:
    """A pruned network with the full one as its teacher, an equal one without, the config."""
    small, layers = cut(model, samples)
    components = [
        dict(student_module=module, teacher_module=module, losses=[loss])
        for module, loss in losses.items()
    ]
    student = distilled_model(
        deepcopy(small),
        model,
        dict(type='SelfDistiller', components=components),
        channel_cfg=layers,
        **settings,
    )
    return student.train(), small.train(), layers


def outputs(model: nn.Module, names: list[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What modules give in a pass, call after call."""
    found: dict[str, Any] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda m, i, output, name=name: found[name].extend(
                output if isinstance(output, tuple) else [output]
            )
        )
        for name in names
    ]
    found['result'] = model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def check_step(student: Any) -> None:
    """A step of the optimizer goes through, and the teacher does not notice."""
    teacher = student.teaching.teacher(torch.device('cpu'))
    before = deepcopy(teacher.state_dict())
    losses = student.parse_losses(student(IMAGES, detection_samples(), mode='loss'))[0]
    OptimWrapper(torch.optim.SGD(student.parameters(), lr=0.01)).update_params(losses)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


def test_the_five_calls_of_a_detectors_head_are_all_compared() -> None:
    model = stir(
        build_model(
            'mmdet',
            '_base_/models/retinanet_r50_fpn.py',
            **{
                'model.backbone': dict(
                    type='ResNet',
                    depth=18,
                    base_channels=8,
                    stem_channels=8,
                    norm_cfg=dict(type='BN'),
                ),
                'model.neck': dict(in_channels=[8, 16, 32, 64], out_channels=16),
                'model.bbox_head': dict(
                    in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3
                ),
            },
        )
    )
    names = ['bbox_head.retina_cls', 'bbox_head.cls_convs.0.conv', 'neck']
    kinds = ['ChannelWiseDivergence', 'L2Loss', 'L2Loss']
    losses = {n: dict(type=k, name=n) for n, k in zip(names, kinds, strict=True)}
    student, small, layers = taught(model, detection_samples(), losses)
    found = student(IMAGES, detection_samples(), mode='loss')
    full, narrow = outputs(model, names, IMAGES), outputs(small, names, IMAGES)
    own = small(IMAGES, detection_samples(), mode='loss')
    assert {*found} == {*own, *(f'{name}_loss' for name in names)}
    everything: Any = slice(None)
    by_hand = zip(
        names,
        [ChannelWiseDivergence(), L2Loss(), L2Loss()],
        [everything, *(layers[n]['out_index'] for n in (names[1], 'neck.fpn_convs.0.conv'))],
        strict=True,
    )
    for name, loss, index in by_hand:
        assert len(full[name]) == len(narrow[name]) == 5
        pairs = zip(narrow[name], full[name], strict=True)
        total = torch.stack([loss(small, large[:, index]) for small, large in pairs]).sum()
        torch.testing.assert_close(found[f'{name}_loss'], total)
    check_step(student)


@pytest.mark.parametrize('mode', ['tensor', 'loss'])
def test_a_segmenter_learns_where_its_teacher_looks(mode: str) -> None:
    """Its auxiliary head runs for the loss only; the teacher's does if it is asked to."""
    norm = dict(type='BN')
    heads = dict(channels=16, num_classes=5, norm_cfg=norm, dropout_ratio=0)
    model = stir(
        build_model(
            'mmseg',
            '_base_/models/pspnet_r50-d8.py',
            **{
                'norm_cfg': norm,
                'model.data_preprocessor.size': (64, 64),
                'model.backbone': dict(depth=18, stem_channels=8, base_channels=8, norm_cfg=norm),
                'model.decode_head': dict(in_channels=64, **heads),
                'model.auxiliary_head': dict(in_channels=32, **heads),
            },
        )
    )
    names = ['decode_head.conv_seg', 'backbone.layer3']
    if mode == 'loss':
        names.append('auxiliary_head.conv_seg')
    kinds = ['ChannelWiseDivergence', 'L2Loss', 'ChannelWiseDivergence']
    losses = {n: dict(type=k, name=n) for n, k in zip(names, kinds, strict=False)}
    student, small, layers = taught(model, segmentation_samples(), losses, teacher_mode=mode)
    found = student(IMAGES, segmentation_samples(), mode='loss')
    full = outputs(model, names, IMAGES, segmentation_samples(), mode=mode)
    narrow = outputs(small, names, IMAGES, segmentation_samples(), mode='loss')
    places: list[Any] = [slice(None), layers['backbone.layer3.1.bn2']['out_index'], slice(None)]
    by_hand = {
        f'{name}_loss': loss(narrow[name][0], full[name][0][:, index])
        for name, loss, index in zip(
            names,
            [ChannelWiseDivergence(), L2Loss(), ChannelWiseDivergence()],
            places,
            strict=False,
        )
    }
    torch.testing.assert_close({key: found[key] for key in by_hand}, by_hand)
    assert {*found} == {*narrow['result'], *by_hand}


def test_the_config_of_a_teacher_may_be_another_packages() -> None:
    settings = dict(config='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', checkpoint='no.pth')
    component = dict(student_module='neck', teacher_module='neck', losses=[dict(type='L2Loss')])
    student = distilled_model(
        build_model(
            'mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py', **{'model.backbone.init_cfg': None}
        ),
        settings,
        dict(type='SelfDistiller', components=[component]),
    )
    with pytest.raises(MissingFileError, match=r'no\.pth: the checkpoint does not exist'):
        student.train()(IMAGES, detection_samples(), mode='loss')
