# What is left of it, a plain network: for testing, finetuning and mmdeploy.
#   mim test mmpose configs/mmpose/deploy_rtmpose-s_8xb256-420e_coco-256x192.py \
#       --checkpoint pruned/deployed.pth
_base_ = [
    'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg='pruned/channel_cfg.yaml',
)
load_from = 'pruned/deployed.pth'
