# DMCP on ImageNet, first of three: a supernet whose widths are drawn by Markov chains, and the
# chains trained in turns with its weights, until a drawn subnet costs half of the MACs on average.
#   tools/dist_train.sh THIS_CONFIG 8
#   W=work_dirs/dmcp-prune_resnet50_8xb32_in1k
#   python tools/deploy_subnet.py THIS_CONFIG $W/epoch_40.pth $W/channel_cfg.yaml \
#       --out-dir $W/deployed
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 3, 224, 224),
    num_sample_training=4,
    pruner=dict(type='MarkovPruner', budget=dict(macs=0.5), except_start_keys=['head.fc']),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='head.fc',
                teacher_module='head.fc',
                losses=[dict(type='KLDivergence', tau=1, loss_weight=1)],
            )
        ],
    ),
    recalibration=dict(num_batches=16, batch_size=256),
)
model_wrapper_cfg = dict(type='mmprune.AutoSlimDDP')
custom_hooks = [dict(type='mmprune.DMCP')]

param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    eta_min=0,
    by_epoch=True,
    begin=0,
    end=40,
    convert_to_iter_based=True,
)
train_cfg = dict(max_epochs=40)
