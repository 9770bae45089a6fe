# Train the plain network, and prune it to half of its MACs on the way: from epoch 2 on the least
# important channels go; from epoch 10 on the small network trains.
#   python tools/train.py configs/importance/iterative_resnet-small_1xb64_digits.py
#   python tools/test.py WORK_DIR/deployed.py WORK_DIR/epoch_20.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

custom_hooks = [
    dict(
        type='mmprune.IterativePruning',
        pruner=dict(
            type='ImportancePruner',
            budget=dict(macs=0.5),
            importance=dict(type='L1Importance'),
            except_start_keys=['head.fc'],
        ),
        input_shape=(1, 1, 8, 8),
        begin=2,
        end=10,
        interval=1,
        schedule='cubic',
        deploy=True,
    )
]
