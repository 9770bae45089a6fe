"""Backbones of mmcls in configurations of a thousandth of their size: one for each mechanism."""


def classifier(backbone, channels, **head):
    head = {'type': 'LinearClsHead', 'num_classes': 10, 'in_channels': channels, **head}
    return dict(type='ImageClassifier', backbone=backbone, head=head)


def pooled(backbone, channels):
    return classifier(backbone, channels) | dict(neck=dict(type='GlobalAveragePooling'))


VIT = dict(embed_dims=24, num_layers=2, num_heads=4, feedforward_channels=48)

# What each is here for, and its config.
SMALL = {
    'class token, position embedding': classifier(
        dict(type='VisionTransformer', arch=VIT, img_size=64, patch_size=16),
        24,
        type='VisionTransformerClsHead',
    ),
    'distillation token': classifier(
        dict(type='DistilledVisionTransformer', arch=VIT, img_size=64, patch_size=16),
        24,
        type='DeiTClsHead',
    ),
    'layer scale on both branches': classifier(
        dict(type='DeiT3', arch=VIT, img_size=64, patch_size=16),
        24,
        type='VisionTransformerClsHead',
    ),
    'shifted windows, relative positions': pooled(
        dict(
            type='SwinTransformer',
            arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4]),
            img_size=64,
            window_size=4,
            out_indices=(1,),
        ),
        32,
    ),
    'cached attention biases': classifier(
        dict(
            type='TinyViT',
            arch=dict(channels=[8, 12, 16, 24], num_heads=[2, 2, 2, 3], depths=[1, 1, 2, 1]),
            img_size=(64, 64),
            window_size=[4, 4, 4, 2],
            out_indices=(3,),
            gap_before_final_norm=True,
        ),
        24,
    ),
    'nn.MultiheadAttention, pixels in patches': classifier(
        dict(
            type='TNT',
            arch=dict(
                embed_dims_outer=32,
                embed_dims_inner=8,
                num_layers=2,
                num_heads_outer=4,
                num_heads_inner=2,
            ),
            img_size=64,
        ),
        32,
    ),
    'pooling for attention, group norm': pooled(
        dict(
            type='PoolFormer',
            arch=dict(
                layers=[1, 1, 1, 1],
                embed_dims=[8, 12, 16, 24],
                mlp_ratios=[2] * 4,
                layer_scale_init_value=1.0,
            ),
        ),
        24,
    ),
    'response norm': classifier(
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1], channels=[8, 16]),
            use_grn=True,
            layer_scale_init_value=0.0,
            out_indices=(1,),
        ),
        16,
    ),
    'gates of split widths, norms of its own': classifier(
        dict(
            type='HorNet',
            arch=dict(
                base_dim=16,
                depths=[1, 1, 1, 1],
                orders=[2, 3, 2, 3],
                dw_cfg=[dict(type='DW', kernel_size=3)] * 2
                + [dict(type='GF', h=14, w=8)]
                + [dict(type='DW', kernel_size=3)],
            ),
        ),
        128,
    ),
    'large-kernel attention': pooled(
        dict(
            type='VAN',
            arch=dict(embed_dims=[8, 12, 16, 24], depths=[1] * 4, ffn_ratios=[2] * 4),
        ),
        24,
    ),
    'attention across channels, position encoding': classifier(
        dict(
            type='EdgeNeXt',
            arch=dict(channels=[8, 16, 24, 32], depths=[1, 2, 2, 2], num_heads=[2, 2, 2, 2]),
            out_indices=(3,),
            gap_before_final_norm=True,
        ),
        32,
    ),
    'grouped convolutions': pooled(
        dict(
            type='ResNeXt',
            depth=50,
            groups=4,
            width_per_group=4,
            stem_channels=8,
            base_channels=16,
            num_stages=2,
            strides=(1, 2),
            dilations=(1, 1),
            out_indices=(1,),
        ),
        128,
    ),
    'a radix softmax': pooled(
        dict(
            type='ResNeSt',
            depth=50,
            stem_channels=8,
            base_channels=8,
            num_stages=2,
            strides=(1, 2),
            dilations=(1, 1),
            out_indices=(1,),
        ),
        64,
    ),
}
