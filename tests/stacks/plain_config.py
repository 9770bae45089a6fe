# A supernet, its search and its test with what mmengine and mmprune have alone.
custom_imports = dict(imports=['mmprune', 'plain_parts'], allow_failed_imports=False)

model = dict(
    type='mmprune.AutoSlim',
    architecture=dict(type='PlainClassifier'),
    input_shape=(1, 1, 8, 8),
    pruner=dict(type='RatioPruner', ratios=[0.5, 1.0]),
    recalibration=dict(num_batches=1),
)


def digits(split):
    return dict(
        batch_size=32,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='mmprune.Digits', split=split, indices=64, pipeline=pipeline),
    )


pipeline = [dict(type='PackPlain')]
train_dataloader = digits('train')
val_dataloader = digits('val')
test_dataloader = digits('test')
del digits

val_evaluator = dict(type='PlainAccuracy')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))

# Two candidates.
search_cfg = dict(
    type='mmprune.GreedySearchLoop',
    targets=[0.9],
    max_channel_bins=2,
)
