# The small network that Group Fisher has left, finetuned.
#   python tools/train.py configs/group_fisher/group-fisher-finetune_resnet-small_1xb64_digits.py
_base_ = ['./group-fisher-deploy_resnet-small_1xb64_digits.py']

load_from = f'{_base_.pruned}/epoch_20.pth'

optim_wrapper = dict(optimizer=dict(lr=0.02))
