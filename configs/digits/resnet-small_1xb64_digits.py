# The plain network: what a supernet of the same shape is compared with.
_base_ = [
    '../_base_/models/resnet_small.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_bs64.py',
    '../_base_/default_runtime.py',
]
