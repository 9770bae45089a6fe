# The small network that DCFF has trained, finetuned.
#   python tools/train.py configs/dcff/dcff-finetune_resnet-small_1xb64_digits.py
_base_ = ['./dcff-deploy_resnet-small_1xb64_digits.py']

load_from = f'{_base_.pruned}/epoch_20.pth'

optim_wrapper = dict(optimizer=dict(lr=0.02))
