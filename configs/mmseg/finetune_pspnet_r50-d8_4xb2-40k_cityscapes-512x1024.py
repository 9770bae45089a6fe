# It is finetuned with the full network as its teacher, from a fifth of the learning rate.
#   python tools/train.py configs/mmseg/finetune_pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py
_base_ = './deploy_pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=_base_.model,
    teacher=dict(
        checkpoint='checkpoints/pspnet_r50-d8_512x1024_40k_cityscapes_20200605_003338-2966598c.pth'
    ),
    distiller=dict(
        type='SelfDistiller',
        components=[
            dict(
                student_module='decode_head.conv_seg',
                teacher_module='decode_head.conv_seg',
                losses=[dict(type='ChannelWiseDivergence', tau=4, loss_weight=1)],
            ),
        ],
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.002))
