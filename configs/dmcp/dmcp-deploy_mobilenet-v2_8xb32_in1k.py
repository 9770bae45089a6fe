# DMCP on ImageNet, second of three: the learned subnet as a plain network. Any channel config will
# do, and MMRazor's unit files, which are read against the traced network:
#   --cfg-options model.channel_cfg=DMCP_MBV2_100M.json
_base_ = [
    'mmcls::_base_/models/mobilenet_v2_1x.py',
    'mmcls::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmcls::_base_/schedules/imagenet_bs256_epochstep.py',
    '../_base_/default_runtime.py',
]

pruned = 'work_dirs/dmcp-prune_mobilenet-v2_8xb32_in1k/deployed'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
    input_shape=(1, 3, 64, 64),
)
