# Network slimming, second step: remove the channels below the threshold. What is written is the
# third step's config and checkpoint: finetuning.
#   python tools/prune.py configs/slimming/slimming-prune_resnet-small_1xb64_digits.py \
#       work_dirs/slimming_resnet-small_1xb64_digits/epoch_20.pth --out-dir slim
#   python tools/train.py slim/deployed.py --work-dir slim_finetuned \
#       --cfg-options optim_wrapper.optimizer.lr=0.02
_base_ = ['./slimming_resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 1, 8, 8),
    pruner=_base_.slimming,
    # The statistics of training stay, shifts folded into them.
    recalibration=dict(num_batches=0),
)
