# A supernet of it, trained at all widths, and its search.
#   python tools/train.py configs/mmdet/autoslim_rtmdet_tiny_8xb32-300e_coco.py
#   python tools/search_subnet.py THIS_CONFIG CHECKPOINT
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/mmprune.py',
]
model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 3, 640, 640),
    num_sample_training=4,
    pruner=dict(type='RatioPruner', ratios=[i / 8 for i in range(2, 9)]),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='neck',
                teacher_module='neck',
                losses=[dict(type='L2Loss', normalise=True, loss_weight=1)],
            ),
        ],
    ),
    recalibration=dict(num_batches=16, batch_size=32),
)
model_wrapper_cfg = dict(type='mmprune.AutoSlimDDP')
search_cfg = dict(type='mmprune.GreedySearchLoop', targets=[0.5, 0.25], max_channel_bins=8)
