# DCFF on the digits: the small network trains from the first epoch on, its filters mixtures of all
# of the full one's, sharper from epoch to epoch; from epoch 15 on the mixtures are the weights.
#   python tools/train.py configs/dcff/dcff-prune_resnet-small_1xb64_digits.py
_base_ = ['../digits/resnet-small_1xb64_digits.py']

custom_hooks = [
    dict(
        type='mmprune.DCFF',
        pruner=dict(
            type='ImportancePruner',
            budget=dict(macs=0.5),
            scope='local',
            importance=dict(type='FusionImportance'),
            except_start_keys=['head.fc'],
        ),
        input_shape=(1, 1, 8, 8),
        end=15,
    )
]
