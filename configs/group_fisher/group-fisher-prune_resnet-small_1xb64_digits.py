# Group Fisher on the digits: from the trained network, four channels go every third iteration by
# what the training computes anyway, until half of the MACs are left. Then the small one trains on.
#   python tools/train.py configs/digits/resnet-small_1xb64_digits.py
#   python tools/train.py configs/group_fisher/group-fisher-prune_resnet-small_1xb64_digits.py
_base_ = ['../digits/resnet-small_1xb64_digits.py']

load_from = 'work_dirs/resnet-small_1xb64_digits/epoch_20.pth'

custom_hooks = [
    dict(
        type='mmprune.IterativePruning',
        pruner=dict(
            type='ImportancePruner',
            budget=dict(macs=0.5),
            importance=dict(type='GroupFisherImportance'),
            score_per='macs',
            except_start_keys=['head.fc'],
        ),
        input_shape=(1, 1, 8, 8),
        by_epoch=False,
        # The target is reached by then in any case.
        end=300,
        interval=3,
        channels=4,
        listen=True,
    )
]

optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = []
