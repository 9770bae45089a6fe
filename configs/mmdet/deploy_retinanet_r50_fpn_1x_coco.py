# What is left of it, a plain network: for testing, finetuning and mmdeploy.
#   mim test mmdet configs/mmdet/deploy_retinanet_r50_fpn_1x_coco.py \
#       --checkpoint pruned/deployed.pth
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg='pruned/channel_cfg.yaml',
)
load_from = 'pruned/deployed.pth'
