# It is finetuned with the full network as its teacher, from a fifth of the learning rate.
#   python tools/train.py configs/mmdet/finetune_yolox_s_8xb8-300e_coco.py
_base_ = './deploy_yolox_s_8xb8-300e_coco.py'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=_base_.model,
    teacher=dict(checkpoint='checkpoints/yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth'),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='neck',
                teacher_module='neck',
                losses=[dict(type='L2Loss', normalise=True, loss_weight=1)],
            ),
        ],
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.002))
