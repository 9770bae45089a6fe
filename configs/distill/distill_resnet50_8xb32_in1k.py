# The pruned ResNet-50, finetuned with the full one as its teacher.
#   tools/dist_train.sh configs/distill/distill_resnet50_8xb32_in1k.py 8
#   tools/dist_test.sh pruned/deployed.py \
#       work_dirs/distill_resnet50_8xb32_in1k/epoch_100.pth 8
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=dict(
        type='mmprune.DeployedModel', model=_base_.model, channel_cfg='pruned/channel_cfg.yaml'
    ),
    teacher=dict(checkpoint='checkpoints/resnet50_8xb32_in1k_20210831-ea4938fc.pth'),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='head.fc',
                teacher_module='head.fc',
                losses=[dict(type='KLDivergence', tau=4, loss_weight=1)],
            ),
        ],
    ),
)
load_from = 'pruned/deployed.pth'

# From trained weights: a fifth of the rate that they were trained with, no steps but a cosine.
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    eta_min=0,
    by_epoch=True,
    begin=0,
    end=100,
    convert_to_iter_based=True,
)
