# The subnet that DMCP has learned, as a plain network. First, as in the config of the supernet:
#   python tools/deploy_subnet.py ...
#   python tools/test.py configs/dmcp/dmcp-deploy_resnet-small_1xb64_digits.py \
#       work_dirs/dmcp-prune_resnet-small_1xb64_digits/deployed/deployed.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

pruned = 'work_dirs/dmcp-prune_resnet-small_1xb64_digits/deployed'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
)
