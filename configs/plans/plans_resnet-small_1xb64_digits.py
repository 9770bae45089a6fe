# Carry out recorded plans on the trained network of the digits: the channels in the file go, with
# everything that depends on them. docs/plans.md says how such a file is made.
#   python tools/train.py configs/digits/resnet-small_1xb64_digits.py
#   python tools/prune.py configs/plans/plans_resnet-small_1xb64_digits.py \
#       work_dirs/resnet-small_1xb64_digits/epoch_20.pth --out-dir planned
_base_ = ['../digits/resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 1, 8, 8),
    pruner=dict(type='RatioPruner', ratios=[1.0], except_start_keys=['head.fc']),
    # Half of the training images.
    recalibration=dict(num_batches=5, batch_size=128),
)

# Or in place of a file: plans=[dict(layer='backbone.layer1.0.conv1', channels=[2, 6, 9]), ...].
prune_cfg = dict(plans='{{ fileDirname }}/plans_resnet-small_1xb64_digits.json')
