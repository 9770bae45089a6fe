# scikit-learn's 1,797 handwritten digits, 8x8 grey: 1,257 to train on, 180 to validate and to
# search with, 360 to test. They come with the package; nothing is downloaded.
dataset_type = 'mmprune.Digits'

data_preprocessor = dict(
    type='ClsDataPreprocessor',
    num_classes=10,
    # Of the training images at 8x8.
    mean=[77.8],
    std=[95.8],
)

# For larger images, begin both pipelines with dict(type='Resize', scale=32) and crop at that size.
train_pipeline = [
    dict(type='RandomCrop', crop_size=8, padding=1),
    dict(type='PackClsInputs'),
]
test_pipeline = [dict(type='PackClsInputs')]

# All of it is in memory and tiny, so workers would cost more than they bring.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=180,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='val', pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=180,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='test', pipeline=test_pipeline),
)

val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
