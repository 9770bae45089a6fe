# Group Fisher on ImageNet, third of three: finetuning of the small network.
#   tools/dist_train.sh THIS_CONFIG 8
_base_ = ['./group-fisher-deploy_mobilenet-v2_8xb32_in1k.py']

load_from = f'{_base_.pruned}/epoch_40.pth'

# A tenth of the rate that the full network was trained with, and a cosine.
optim_wrapper = dict(optimizer=dict(lr=0.0045))
param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    eta_min=0,
    by_epoch=True,
    begin=0,
    end=100,
    convert_to_iter_based=True,
)
train_cfg = dict(max_epochs=100)
