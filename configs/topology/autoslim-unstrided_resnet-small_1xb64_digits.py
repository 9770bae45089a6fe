# AutoSlim on the digits, but no convolution with a stride is pruned, nor what is added to it. The
# report says which groups were left out. A list of layers does the same by name:
# `topology='topology.yaml'`, the file that `pruner.topology().save(...)` writes.
#   python tools/train.py configs/topology/autoslim-unstrided_resnet-small_1xb64_digits.py
_base_ = ['../autoslim/autoslim_resnet-small_1xb64_digits.py']

model = dict(pruner=dict(leave_out=['strided']))
