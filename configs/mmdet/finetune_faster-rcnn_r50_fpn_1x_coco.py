# It is finetuned with the full network as its teacher, from a fifth of the learning rate.
#   python tools/train.py configs/mmdet/finetune_faster-rcnn_r50_fpn_1x_coco.py
_base_ = './deploy_faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=_base_.model,
    teacher=dict(checkpoint='checkpoints/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth'),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='neck',
                teacher_module='neck',
                losses=[dict(type='L2Loss', normalise=True, loss_weight=1)],
            ),
            dict(
                student_module='rpn_head.rpn_cls',
                teacher_module='rpn_head.rpn_cls',
                losses=[dict(type='ChannelWiseDivergence', tau=4, loss_weight=1)],
            ),
        ],
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.004))
