# Several subnets of the small ResNet retrained jointly: they share all weights but those of norms.
#   python tools/train.py THIS_CONFIG --cfg-options \
#       model.channel_cfg="['DIR/subnet_0.5.yaml','DIR/subnet_0.25.yaml']"
_base_ = ['./autoslim_resnet-small_1xb64_digits.py']

model = dict(retraining=True, channel_cfg=['subnet_0.5.yaml', 'subnet_0.25.yaml'])

# Each subnet is measured; subnet0/accuracy/top1 is the first one's.
val_cfg = dict(type='mmprune.SubnetsValLoop')
test_cfg = dict(type='mmprune.SubnetsTestLoop')
