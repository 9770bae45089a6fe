# AutoSlim on ImageNet, second part: greedy slimming to three budgets.
#   python tools/search_subnet.py THIS_CONFIG SUPERNET_CHECKPOINT --work-dir DIR
_base_ = ['./autoslim_mobilenet-v2_1.5x_8xb256_in1k.py']

search_cfg = dict(
    type='mmprune.GreedySearchLoop',
    targets=[500e6, 300e6, 200e6],
    max_channel_bins=12,
    min_channel_bins=2,
    # A round evaluates every group, so a part of the images must do. The paper holds 50,000
    # training images out; give a list of yours in `ann_file` to search on those instead.
    dataloader=dict(
        batch_size=256,
        num_workers=5,
        persistent_workers=True,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='ImageNet',
            data_root='data/imagenet',
            ann_file='meta/val.txt',
            data_prefix='val',
            # mmcls's list of these images is in no order of classes.
            indices=5000,
            pipeline=_base_.test_pipeline,
        ),
    ),
)
