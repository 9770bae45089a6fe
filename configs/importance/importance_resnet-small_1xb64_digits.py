# Prune the trained network of the digits to half of its MACs, in one step, by the sum of absolute
# weights.
#   python tools/train.py configs/digits/resnet-small_1xb64_digits.py
#   python tools/prune.py configs/importance/importance_resnet-small_1xb64_digits.py \
#       work_dirs/resnet-small_1xb64_digits/epoch_20.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 1, 8, 8),
    pruner=dict(
        type='ImportancePruner',
        budget=dict(macs=0.5),
        # Groups are compared with each other: by how much a channel differs from its group's mean.
        importance=dict(type='L1Importance'),
        except_start_keys=['head.fc'],
    ),
    # Half of the training images.
    recalibration=dict(num_batches=5, batch_size=128),
)

# What an importance that looks at data sees, such as dict(type='TaylorImportance').
prune_cfg = dict(collect=dict(num_batches=8, batch_size=64))
