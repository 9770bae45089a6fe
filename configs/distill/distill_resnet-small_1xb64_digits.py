# Finetune the small network that was pruned from the one of the digits, with that one as its
# teacher. The checkpoints fit the plain config that pruning has written.
#   python tools/train.py configs/digits/resnet-small_1xb64_digits.py
#   python tools/prune.py configs/digits/resnet-small_1xb64_digits.py \
#       work_dirs/resnet-small_1xb64_digits/epoch_20.pth --budget macs=0.25 --out-dir pruned
#   python tools/train.py configs/distill/distill_resnet-small_1xb64_digits.py
#   python tools/test.py pruned/deployed.py \
#       work_dirs/distill_resnet-small_1xb64_digits/epoch_20.pth
_base_ = ['../digits/resnet-small_1xb64_digits.py']

model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=dict(
        type='mmprune.DeployedModel', model=_base_.model, channel_cfg='pruned/channel_cfg.yaml'
    ),
    teacher=dict(checkpoint='work_dirs/resnet-small_1xb64_digits/epoch_20.pth'),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='head.fc',
                teacher_module='head.fc',
                losses=[dict(type='KLDivergence', tau=4, loss_weight=1)],
            ),
            dict(
                student_module='backbone.layer3',
                teacher_module='backbone.layer3',
                losses=[dict(type='L2Loss', normalise=True, loss_weight=1)],
            ),
        ],
    ),
)
load_from = 'pruned/deployed.pth'
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, end=20, eta_min=0, convert_to_iter_based=True)
]
