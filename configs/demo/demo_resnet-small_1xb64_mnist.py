# What `make demo` trains and searches: a supernet of a small ResNet on images of MNIST, with bars
# instead of logs. Eight epochs, and a search of about a hundred candidates.
_base_ = [
    '../_base_/models/resnet_small.py',
    '../_base_/datasets/mnist.py',
    '../_base_/default_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture={**_base_.model, 'backbone': {**_base_.model.backbone, 'strides': (2, 2, 2)}},
    input_shape=(1, 1, 28, 28),
    num_sample_training=4,
    pruner=dict(
        type='RatioPruner',
        ratios=[0.25, 0.5, 0.75, 1.0],
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
    recalibration=dict(num_batches=5, batch_size=128),
)
model_wrapper_cfg = dict(type='mmprune.AutoSlimDDP')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
)
max_epochs = 8
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=max_epochs))
custom_hooks = [dict(type='mmprune.ProgressBarHook')]

search_cfg = dict(
    type='mmprune.GreedySearchLoop',
    targets=[0.5, 0.25],
    # Bins as fine as the ratios of the training, and none narrower.
    max_channel_bins=4,
)
