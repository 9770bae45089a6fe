# Group Fisher on ImageNet, first of three: from the trained network, a channel goes every 25
# iterations by what the training computes anyway, until half of the MACs are left.
#   tools/dist_train.sh THIS_CONFIG 8 --cfg-options load_from=CHECKPOINT_OF_MMCLS
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

custom_hooks = [
    dict(
        type='mmprune.IterativePruning',
        pruner=dict(
            type='ImportancePruner',
            budget=dict(macs=0.5),
            importance=dict(type='GroupFisherImportance'),
            score_per='macs',
            except_start_keys=['head.fc'],
        ),
        input_shape=(1, 3, 224, 224),
        by_epoch=False,
        end=195_000,
        interval=25,
        channels=1,
        listen=True,
    )
]

optim_wrapper = dict(optimizer=dict(lr=0.004))
param_scheduler = []
train_cfg = dict(max_epochs=40)
