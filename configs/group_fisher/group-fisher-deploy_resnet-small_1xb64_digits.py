# The small network that Group Fisher has left, as a plain one.
#   python tools/test.py configs/group_fisher/group-fisher-deploy_resnet-small_1xb64_digits.py \
#       work_dirs/group-fisher-prune_resnet-small_1xb64_digits/epoch_20.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

pruned = 'work_dirs/group-fisher-prune_resnet-small_1xb64_digits'

model = dict(
    _delete_=True,
    type='mmprune.DeployedModel',
    model=_base_.model,
    channel_cfg=f'{pruned}/channel_cfg.yaml',
)
