# AutoSlim on ImageNet with MobileNetV2 1.5x, first part of three: the supernet.
# Settings of Yu and Huang, "AutoSlim", 2019, and of MMRazor's config of it.
_base_ = [
    'mmcls::_base_/datasets/imagenet_bs32_pil_resize.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='mmprune.AutoSlim',
    architecture=dict(
        type='ImageClassifier',
        backbone=dict(type='MobileNetV2', widen_factor=1.5),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=1000,
            in_channels=1920,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            topk=(1, 5),
        ),
    ),
    num_sample_training=4,
    input_shape=(1, 3, 224, 224),
    pruner=dict(
        type='RatioPruner',
        ratios=[i / 12 for i in range(2, 13)],
        except_start_keys=['head.fc'],
    ),
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

train_dataloader = dict(
    batch_size=256, persistent_workers=True, collate_fn=dict(type='default_collate')
)
val_dataloader = dict(
    batch_size=256, persistent_workers=True, collate_fn=dict(type='default_collate')
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
max_epochs = 50
param_scheduler = dict(
    type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=2048)
