# The small network that DCFF has trained, as a plain one.
#   python tools/test.py configs/dcff/dcff-deploy_resnet-small_1xb64_digits.py \
#       work_dirs/dcff-prune_resnet-small_1xb64_digits/epoch_20.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

pruned = 'work_dirs/dcff-prune_resnet-small_1xb64_digits'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
)
