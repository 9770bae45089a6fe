# What is left of it, a plain network: for testing, finetuning and mmdeploy.
#   mim test mmsegmentation configs/mmseg/deploy_pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py \
#       --checkpoint pruned/deployed.pth
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg='pruned/channel_cfg.yaml',
)
load_from = 'pruned/deployed.pth'
