# The subnet that DMCP has learned, finetuned from the supernet's weights.
#   python tools/train.py configs/dmcp/dmcp-finetune_resnet-small_1xb64_digits.py
_base_ = ['./dmcp-deploy_resnet-small_1xb64_digits.py']

load_from = f'{_base_.pruned}/deployed.pth'

optim_wrapper = dict(optimizer=dict(lr=0.02))
