# DCFF on ImageNet, second of three: the small network as a plain one.
#   tools/dist_test.sh THIS_CONFIG work_dirs/dcff-prune_mobilenet-v2_8xb32_in1k/epoch_100.pth 8
_base_ = [
    'mmcls::_base_/models/mobilenet_v2_1x.py',
    'mmcls::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmcls::_base_/schedules/imagenet_bs256_epochstep.py',
    '../_base_/default_runtime.py',
]

pruned = 'work_dirs/dcff-prune_mobilenet-v2_8xb32_in1k'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
)
