# DMCP on ImageNet, second of three: the learned subnet as a plain network. Any channel config will
# do, and MMRazor's unit files, which are read against the traced network:
#   --cfg-options model.channel_cfg=DMCP_R50_2G.json
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

pruned = 'work_dirs/dmcp-prune_resnet50_8xb32_in1k/deployed'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
    input_shape=(1, 3, 64, 64),
)
