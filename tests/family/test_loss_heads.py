"""Heads that run for the loss only: cut with the rest, trained, deployed and trained again."""

from pathlib import Path
from textwrap import dedent

import pytest
import torch
from family_models import build_model
from small_data import SEGMENTS, write_images

from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.diagnose import diagnose
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.commands.run import train
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.registry import PRUNERS
from mmprune.testing.comparisons import randomise, scattered

RESNET = {
    'model.pretrained': None,
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.stem_channels': 8,
}
PSPNET = {
    **RESNET,
    'model.decode_head.in_channels': 64,
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': 32,
    'model.auxiliary_head.channels': 8,
}
BISENET = {
    'model.backbone.detail_channels': (8, 8, 16),
    'model.backbone.semantic_channels': (4, 8, 16, 16),
    'model.backbone.bga_channels': 16,
    'model.decode_head.in_channels': 16,
    'model.decode_head.channels': 24,
    **{
        f'model.auxiliary_head.{head}.{option}': width
        for head, channels in enumerate((4, 8, 16, 16))
        for option, width in (('in_channels', channels), ('channels', 8))
    },
}
PIDNET = {
    'model.backbone.init_cfg': None,
    'model.backbone.channels': 8,
    'model.backbone.ppm_channels': 8,
    'model.decode_head.in_channels': 32,
    'model.decode_head.channels': 16,
}
DINO = {
    'model.backbone.init_cfg': None,
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.stem_channels': 8,
    'model.neck.in_channels': [16, 32, 64],
    'model.num_queries': 12,
    'model.encoder.num_layers': 1,
    'model.decoder.num_layers': 1,
    'model.encoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'model.decoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'model.dn_cfg.group_cfg.num_dn_queries': 4,
}
CASES = {
    'PSPNet': ('mmseg', '_base_/models/pspnet_r50-d8.py', PSPNET, 'auxiliary_head', 0.3),
    'BiSeNetV2': ('mmseg', '_base_/models/bisenetv2.py', BISENET, 'auxiliary_head', 0.35),
    'PIDNet': (
        'mmseg',
        'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
        PIDNET,
        'decode_head.p_head',
        0.3,
    ),
    'DINO': (
        'mmdet',
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        DINO,
        'dn_query_generator.label_embedding',
        0.45,
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_what_only_the_loss_runs_is_cut_with_the_rest(name):
    package, path, options, head, at_most = CASES[name]
    model = randomise(build_model(package, path, **options).double()).eval()
    pruner = PRUNERS.build(dict(_scope_='mmprune', type='RatioPruner', ratios=[0.5, 1.0]))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pruner.prepare_from_supernet(model, images.double())
    subnet = scattered(pruner)
    report = pruner.verify_subnet(subnet=subnet)
    assert report.ok, report
    assert 'loss' in report.roads
    pruner.set_subnet(subnet)
    deployed = pruner.deploy_subnet(model)
    sizes = [
        sum(p.numel() for n, p in m.named_parameters() if n.startswith(which))
        for which in ('', head)
        for m in (deployed, model)
    ]
    assert sizes[0] < at_most * sizes[1], sizes
    assert sizes[2] < 0.8 * sizes[3], sizes
    road = next(road for road in pruner.supernet.roads() if road.name == 'loss')
    losses = road.run(deployed.train())
    sum(value for key, value in losses.items() if 'loss' in key).backward()


# -- from a config to a network that is trained again -------------------------------------------

CONFIG = (
    """
_base_ = 'mmseg::_base_/models/pspnet_r50-d8.py'
custom_imports = dict(imports=['mmseg.datasets', 'mmseg.evaluation', 'mmseg.models'])
default_scope = 'mmseg'
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(depth=18, base_channels=8, stem_channels=8),
    decode_head=dict(in_channels=64, channels=16, num_classes=3),
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=3),
)
"""
    + SEGMENTS
    + """
test_dataloader = dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01),
    paramwise_cfg=dict(custom_keys=dict(auxiliary_head=dict(lr_mult=10.0))),
)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
)
"""
)
SUPERNET = """
_base_ = './plain.py'
model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture={{_base_.model}},
    pruner=dict(type='RatioPruner', ratios=[0.5, 1.0]),
    input_shape=(1, 3, 64, 64),
    num_sample_training=2,
    recalibration=dict(num_batches=1),
)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with maps of three classes, and the configs."""
    root = tmp_path_factory.mktemp('segmentor')
    write_images(root)
    (root / 'plain.py').write_text(dedent(CONFIG).replace('{root}', str(root)))
    (root / 'supernet.py').write_text(dedent(SUPERNET))
    return root


def losses(runner) -> set[str]:
    """The names of what was logged of the last step."""
    scalars = runner.message_hub.log_scalars
    return {name.removeprefix('train/') for name in scalars if 'loss' in name}


def test_a_segmentor_with_an_auxiliary_head_is_pruned_and_trained_again(folder: Path) -> None:
    runner = train(folder / 'plain.py', folder / 'plain')
    assert type(runner.model.decode_head.bottleneck.bn).__name__ == '_BatchNormXd'
    checkpoint = folder / 'plain' / 'iter_2.pth'
    found = diagnose(folder / 'plain.py', checkpoint, folder / 'diagnosis', (1, 3, 64, 64))
    assert found.is_verified
    groups = {group.space_id: group.prunable for group in found.findings.groups}
    assert groups['auxiliary_head.convs.0.conv']
    options = PruneOptions(ratio=0.5, input_shape=(1, 3, 64, 64))
    files = prune(folder / 'plain.py', checkpoint, folder / 'pruned', options=options)
    assert 'loss' in files.verified.roads
    again = train(files.config, folder / 'finetuned')
    assert {'decode.loss_ce', 'aux.loss_ce'} <= losses(again)
    assert again.model.auxiliary_head.convs[0].conv.in_channels < 32


def test_a_supernet_with_an_auxiliary_head_is_trained_and_deployed(folder: Path) -> None:
    runner = train(folder / 'supernet.py', folder / 'supernet')
    assert {'max_subnet.aux.loss_ce', 'min_subnet.aux.loss_ce'} <= losses(runner)
    rates = {group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}
    assert rates == {0.01, 0.1}
    runner.model.pruner.set_min_channel()
    subnet = folder / 'subnet.yaml'
    save_channel_cfg(runner.model.pruner.export_subnet(), subnet)
    checkpoint = folder / 'supernet' / 'iter_2.pth'
    files = deploy_subnet(folder / 'supernet.py', checkpoint, subnet, folder / 'deployed')
    again = train(files.config, folder / 'retrained')
    assert {'decode.loss_ce', 'aux.loss_ce'} <= losses(again)
