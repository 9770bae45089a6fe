# The small ResNet for digits with a width for every convolution, projections left out. Its blocks
# end on uneven widths; shortcuts are sampled to fit.
#   python tools/train.py configs/channel_lists/channel-list_resnet-small_1xb64_digits.py
_base_ = ['../digits/resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.ChannelListModel',
    channels=[14, 10, 12, 8, 16, 20, 28, 18, 24, 40, 48, 36, 56],
    residual='sample',
    input_shape=(1, 1, 8, 8),
    model={{_base_.model}},
)
