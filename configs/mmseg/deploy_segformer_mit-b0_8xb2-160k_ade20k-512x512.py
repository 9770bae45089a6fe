# What is left of it, a plain network: for testing, finetuning and mmdeploy.
#   mim test mmsegmentation configs/mmseg/deploy_segformer_mit-b0_8xb2-160k_ade20k-512x512.py \
#       --checkpoint pruned/deployed.pth
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg='pruned/channel_cfg.yaml',
)
load_from = 'pruned/deployed.pth'
