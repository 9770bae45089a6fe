"""Files that MMRazor has written, and the multiply-adds that they must come to, to the unit."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mmcls.registry import MODELS
from mmcls.structures import ClsDataSample
from mmengine.registry import init_default_scope
from torch.utils.flop_counter import FlopCounterMode

from mmprune.config import load_config
from mmprune.models.algorithm import build_model
from mmprune.registry import PRUNERS

FOLDER = Path(__file__).parents[3] / 'shared' / 'data' / 'mmrazor'
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f'the files of MMRazor are not at {FOLDER}'
)


def classifier(channels, **backbone):
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=channels)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head, _scope_='mmcls')
    return MODELS.build(model).eval()


def mobilenet(widen_factor):
    channels = int(1280 * max(widen_factor, 1))
    return classifier(channels, type='MobileNetV2', widen_factor=widen_factor)


def resnet50():
    return classifier(2048, type='ResNet', depth=50)


def count_macs(model, size=224):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert torch.isfinite(model(torch.randn(1, 3, size, size))).all()
    return counter.get_total_flops() // 2


def prepared(model, size):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    pruner.prepare_from_supernet(model, torch.randn(1, 3, size, size))
    return pruner


AUTOSLIM = pytest.mark.parametrize(
    ('file', 'macs'),
    [
        ('AUTOSLIM_MBV2_530M_OFFICIAL.yaml', 504_934_400),
        ('AUTOSLIM_MBV2_320M_OFFICIAL.yaml', 305_072_416),
    ],
)


@AUTOSLIM
def test_autoslim_deploys_without_a_trace(file, macs):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    deployed = pruner.deploy_subnet(mobilenet(1.5), FOLDER / file)
    assert count_macs(deployed) == macs
    for name, entry in yaml.safe_load((FOLDER / file).read_text()).items():
        layer = deployed.get_submodule(name)
        found = next(
            getattr(layer, attribute)
            for attribute in ('out_channels', 'out_features', 'num_features')
            if hasattr(layer, attribute)
        )
        assert found == entry['out_channels']


@AUTOSLIM
def test_autoslim_in_a_supernet(file, macs):
    model = mobilenet(1.5)
    pruner = prepared(model, 224)
    subnet = pruner.load_channel_cfg(FOLDER / file)
    assert pruner.cost(subnet)['macs'] == macs
    assert all(mask.flatten()[: int(mask.sum())].all() for mask in subnet.values())
    assert pruner.verify_subnet(model, subnet).ok


def test_autoslim_for_another_width_is_refused():
    with pytest.raises(ValueError, match=r'AUTOSLIM.*raw_out_channels is 48, but the layer has 32'):
        PRUNERS.build(dict(type='RatioPruner', ratios=[1.0])).deploy_subnet(
            mobilenet(1.0), FOLDER / 'AUTOSLIM_MBV2_320M_OFFICIAL.yaml'
        )


@pytest.mark.parametrize(
    ('file', 'build', 'macs'),
    [
        ('DMCP_R50_2G.json', resnet50, 2_194_130_032),
        # No figure comes with this one: what 1.x keeps of it, counted by torch.
        ('DMCP_MBV2_100M.json', lambda: mobilenet(1.0), 84_089_020),
    ],
)
def test_dmcp(file, build, macs):
    model = build()
    pruner = prepared(model, 224)
    deployed = pruner.deploy_subnet(model, FOLDER / file)
    assert count_macs(deployed) == macs
    subnet = pruner.load_channel_cfg(FOLDER / file)
    assert pruner.cost(subnet)['macs'] == macs
    units = json.loads((FOLDER / file).read_text())['channel_unit_cfg']['units']
    for unit, entry in units.items():
        layer = deployed.get_submodule(unit.rpartition('_(')[0])
        assert layer.out_channels == min(entry['choice'], entry['init_args']['num_channels'])
    assert pruner.verify_subnet(model, subnet).ok


@pytest.mark.parametrize(
    ('config', 'file', 'macs'),
    [
        ('dmcp-finetune_mobilenet-v2_8xb32_in1k.py', 'DMCP_MBV2_100M.json', 84_089_020),
        (
            'autoslim-subnet_mobilenet-v2_1.5x_8xb256_in1k.py',
            'AUTOSLIM_MBV2_320M_OFFICIAL.yaml',
            305_072_416,
        ),
    ],
)
def test_a_published_subnet_is_trained_from_a_config(config, file, macs):
    cfg = load_config(config)
    cfg.model.channel_cfg = str(FOLDER / file)
    init_default_scope('mmcls')
    network = build_model(cfg)
    images, labels = torch.rand(2, 3, 64, 64), [ClsDataSample().set_gt_label(n) for n in (0, 1)]
    network(images, labels, mode='loss')['loss'].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert count_macs(network.eval()) == macs
