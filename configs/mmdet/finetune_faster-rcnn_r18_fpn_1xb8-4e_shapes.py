# What tools/prune.py has left of it, finetuned with the full one as its teacher.
_base_ = ['./faster-rcnn_r18_fpn_1xb8-12e_shapes.py', '../_base_/mmprune.py']

folder = 'work_dirs/faster-rcnn_r18_fpn_1xb8-12e_shapes'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=dict(
        type='mmprune.DeployedModel',
        model=_base_.model,
        channel_cfg=f'{folder}/pruned/channel_cfg.yaml',
    ),
    teacher=dict(checkpoint=f'{folder}/epoch_12.pth'),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='neck',
                teacher_module='neck',
                losses=[dict(type='L2Loss', loss_weight=1, normalise=True)],
            ),
            dict(
                student_module='rpn_head.rpn_cls',
                teacher_module='rpn_head.rpn_cls',
                losses=[dict(type='ChannelWiseDivergence', loss_weight=1, tau=4)],
            ),
        ],
    ),
)
load_from = f'{folder}/pruned/deployed.pth'

param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, end=4, eta_min=0, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=4)
default_hooks = dict(checkpoint=dict(interval=4))
