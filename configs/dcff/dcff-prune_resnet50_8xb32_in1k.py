# DCFF on ImageNet, first of three: the small network trains from the first epoch on, its filters
# mixtures of those of the full one; from epoch 80 on they are the weights.
#   tools/dist_train.sh THIS_CONFIG 8
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(
        type='mmprune.DCFF',
        pruner=dict(
            type='ImportancePruner',
            budget=dict(macs=0.5),
            scope='local',
            importance=dict(type='FusionImportance'),
            except_start_keys=['head.fc'],
        ),
        input_shape=(1, 3, 224, 224),
        end=80,
    )
]

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
