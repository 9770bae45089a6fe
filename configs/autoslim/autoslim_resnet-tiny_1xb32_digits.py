# Every step in seconds, for tests of the tools: an accuracy is not to be expected.
_base_ = ['./autoslim_resnet-small_1xb64_digits.py']

model = dict(
    architecture=dict(backbone=dict(stem_channels=8, base_channels=8), head=dict(in_channels=32)),
    num_sample_training=3,
    pruner=dict(ratios=[0.5, 1.0]),
    recalibration=dict(num_batches=2, batch_size=32),
)

tiny_train_pipeline = [dict(type='PackClsInputs')]
train_dataloader = dict(batch_size=32, dataset=dict(indices=128, pipeline=tiny_train_pipeline))
val_dataloader = dict(batch_size=60, dataset=dict(indices=60, pipeline=tiny_train_pipeline))
test_dataloader = dict(batch_size=60, dataset=dict(indices=60, pipeline=tiny_train_pipeline))

train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))

search_cfg = dict(targets=[0.8, 0.5], max_channel_bins=2)
