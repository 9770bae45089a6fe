# DCFF on ImageNet, third of three: finetuning of the small network.
#   tools/dist_train.sh THIS_CONFIG 8
_base_ = ['./dcff-deploy_resnet50_8xb32_in1k.py']

load_from = f'{_base_.pruned}/epoch_100.pth'

optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    eta_min=0,
    by_epoch=True,
    begin=0,
    end=30,
    convert_to_iter_based=True,
)
train_cfg = dict(max_epochs=30)
