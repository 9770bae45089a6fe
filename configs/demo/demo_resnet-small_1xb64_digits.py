# A demo for a third of the time: the supernet of the digits, with bars instead of logs.
_base_ = ['../autoslim/autoslim_resnet-small_1xb64_digits.py']

train_cfg = dict(val_interval=20)
default_hooks = dict(checkpoint=dict(interval=20))
custom_hooks = [dict(type='mmprune.ProgressBarHook')]
