# MobileNet (v1) at half of its MACs, by the list of channels that AMC (He et al. 2018) found: the
# stem, then the pointwise convolution of every block. 284,862,328 MACs, 927,264 parameters.
#   python tools/train.py configs/channel_lists/amc_mobilenet-v1_4xb64_in1k.py
_base_ = [
    'mmcls::_base_/datasets/imagenet_bs64_pil_resize.py',
    'mmcls::_base_/schedules/imagenet_bs256_coslr.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='mmprune.ChannelListModel',
    channels=[32, 64, 104, 128, 248, 224, 456, 296, 456, 224, 104, 104, 208, 208],
    input_shape=(1, 3, 64, 64),
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='mmprune.MobileNetV1'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=1000,
            in_channels=1024,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            topk=(1, 5),
        ),
    ),
)
