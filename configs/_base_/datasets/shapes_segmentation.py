# Classes of drawn shapes, pixel by pixel: python -m mmprune.datasets.shapes data/shapes
data = dict(
    type='BaseSegDataset',
    data_root='data/shapes/',
    img_suffix='.png',
    metainfo=dict(
        classes=('background', 'circle', 'square', 'triangle'),
        palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]],
    ),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **data,
        data_prefix=dict(img_path='images/train', seg_map_path='maps/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **data,
        data_prefix=dict(img_path='images/val', seg_map_path='maps/val'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
