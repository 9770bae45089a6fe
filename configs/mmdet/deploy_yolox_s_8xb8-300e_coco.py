# What is left of it, a plain network: for testing, finetuning and mmdeploy.
#   mim test mmdet configs/mmdet/deploy_yolox_s_8xb8-300e_coco.py \
#       --checkpoint pruned/deployed.pth
_base_ = [
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg='pruned/channel_cfg.yaml',
)
load_from = 'pruned/deployed.pth'
