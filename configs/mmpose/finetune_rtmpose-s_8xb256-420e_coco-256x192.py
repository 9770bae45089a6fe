# It is finetuned with the full network as its teacher, from a fifth of the learning rate.
#   python tools/train.py configs/mmpose/finetune_rtmpose-s_8xb256-420e_coco-256x192.py
_base_ = './deploy_rtmpose-s_8xb256-420e_coco-256x192.py'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=_base_.model,
    teacher=dict(
        checkpoint='checkpoints/rtmpose-s_simcc-coco_pt-aic-coco_420e-256x192-8edcf0d7_20230127.pth'
    ),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='head.cls_x',
                teacher_module='head.cls_x',
                losses=[dict(type='ChannelWiseDivergence', tau=4, loss_weight=1)],
            ),
            dict(
                student_module='head.cls_y',
                teacher_module='head.cls_y',
                losses=[dict(type='ChannelWiseDivergence', tau=4, loss_weight=1)],
            ),
        ],
    ),
)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
