# Network slimming, first step: train the plain network with a penalty on the scales and shifts of
# its norms. At the end the work directory has scales.png.
#   python tools/train.py configs/slimming/slimming_resnet-small_1xb64_digits.py
_base_ = ['../digits/resnet-small_1xb64_digits.py']

slimming = dict(type='NetworkSlimming', percent=0.5, except_start_keys=['head.fc'])

custom_hooks = [
    dict(
        type='mmprune.SlimmingPenalty',
        weight=5e-3,
        decay=0.9,
        shift_factor=10,
        pruner=slimming,
        input_shape=(1, 1, 8, 8),
    )
]
