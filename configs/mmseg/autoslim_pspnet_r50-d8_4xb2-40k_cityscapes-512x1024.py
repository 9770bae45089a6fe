# A supernet of it, trained at all widths, and its search.
#   python tools/train.py configs/mmseg/autoslim_pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py
#   python tools/search_subnet.py THIS_CONFIG CHECKPOINT
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 3, 512, 1024),
    num_sample_training=4,
    pruner=dict(type='RatioPruner', ratios=[i / 8 for i in range(2, 9)]),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='decode_head.conv_seg',
                teacher_module='decode_head.conv_seg',
                losses=[dict(type='ChannelWiseDivergence', tau=4, loss_weight=1)],
            ),
        ],
    ),
    recalibration=dict(num_batches=16, batch_size=8),
)
model_wrapper_cfg = dict(type='mmprune.AutoSlimDDP')
search_cfg = dict(type='mmprune.GreedySearchLoop', targets=[0.5, 0.25], max_channel_bins=8)
