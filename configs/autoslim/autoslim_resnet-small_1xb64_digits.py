# AutoSlim on the handwritten digits: a supernet of the small ResNet, and its search.
#   python tools/train.py configs/autoslim/autoslim_resnet-small_1xb64_digits.py
#   python tools/search_subnet.py configs/autoslim/autoslim_resnet-small_1xb64_digits.py CHECKPOINT
_base_ = ['../digits/resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 1, 8, 8),
    num_sample_training=4,
    pruner=dict(
        type='RatioPruner',
        ratios=[0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0],
        except_start_keys=['head.fc'],
    ),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='head.fc',
                teacher_module='head.fc',
                losses=[dict(type='KLDivergence', tau=1, loss_weight=1)],
            )
        ],
    ),
    # Half of the training images.
    recalibration=dict(num_batches=5, batch_size=128),
)
# Training in several processes; without effect in one.
model_wrapper_cfg = dict(type='mmprune.AutoSlimDDP')

search_cfg = dict(
    type='mmprune.GreedySearchLoop',
    targets=[0.5, 0.25],
    # Bins as fine as the ratios of the training, and none narrower.
    max_channel_bins=8,
)
