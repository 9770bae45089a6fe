# It is finetuned with the full network as its teacher, from a fifth of the learning rate.
#   python tools/train.py configs/mmseg/finetune_segformer_mit-b0_8xb2-160k_ade20k-512x512.py
_base_ = './deploy_segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
model = dict(
    _delete_=True,
    type='mmprune.DistilledModel',
    architecture=_base_.model,
    teacher=dict(
        checkpoint='checkpoints/segformer_mit-b0_512x512_160k_ade20k_20210726_101530-8ffa8fda.pth'
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
optim_wrapper = dict(optimizer=dict(lr=1.2e-5))
