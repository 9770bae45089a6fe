# AutoSlim on ImageNet, third part: train a subnet from scratch.
#   python tools/train.py THIS_CONFIG --cfg-options model.channel_cfg=DIR/subnet_300M.yaml
_base_ = ['./autoslim_mobilenet-v2_1.5x_8xb256_in1k.py']

model = dict(retraining=True, channel_cfg='subnet_300M.yaml')

max_epochs = 300
param_scheduler = dict(end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
