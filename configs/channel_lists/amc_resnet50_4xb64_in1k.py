# ResNet-50 at half of its MACs, by the list of channels that AMC (He et al. 2018) found. Its 53
# widths are read as those of all convolutions in the order in which they run, the projections of
# shortcuts included; the first entry is the image. Blocks end on uneven widths, so shortcuts are
# sampled. 1,949,966,848 MACs, 7,530,160 parameters.
#   python tools/train.py configs/channel_lists/amc_resnet50_4xb64_in1k.py
_base_ = [
    'mmcls::_base_/datasets/imagenet_bs64_pil_resize.py',
    'mmcls::_base_/schedules/imagenet_bs256_coslr.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='mmprune.ChannelListModel',
    channels=[
        *(3, 56),
        *(64, 64, 48, 240, 16, 64, 152, 32, 32, 152),
        *(120, 104, 216, 368, 112, 32, 480, 112, 120, 504, 88, 104, 104),
        *(240, 184, 368, 768, 200, 200, 640, 232, 192, 976, 248, 192, 760),
        *(160, 208, 584, 208, 248, 968),
        *(496, 224, 208, 416, 104, 104, 416, 104, 104, 416),
    ],
    has_input=True,
    skip=[],
    residual='sample',
    input_shape=(1, 3, 64, 64),
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=50),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=1000,
            in_channels=2048,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            topk=(1, 5),
        ),
    ),
)
