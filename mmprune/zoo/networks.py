"""Which networks are in the zoo, how much of each must go, and what cannot go from some."""

from __future__ import annotations

import re

PLAIN_BAR, ATTENTION_BAR = 0.40, 0.45
"""Share of the parameters that a network may keep when every group keeps half."""

CONVOLUTIONAL = (
    'resnet18',
    'resnet34',
    'resnet50',
    'resnet50_cifar',
    'resnet34_gem',
    'resnetv1c50',
    'resnetv1d50',
    'wide-resnet50',
    'seresnet50',
    'vgg11',
    'vgg16bn',
    'mobilenet_v2_1x',
    'mobilenet_v3/mobilenet_v3_small_imagenet',
    'mobilenet_v3/mobilenet_v3_large_imagenet',
    'densenet/densenet121',
    'inception_v3',
    'hrnet/hrnet-w18',
    'repvgg-A0_in1k',
    'mobileone/mobileone_s0',
    'efficientnet_b0',
    'efficientnet_em',
    'efficientnet_v2/efficientnetv2_b0',
    'efficientnet_v2/efficientnetv2_s',
    'convmixer/convmixer-768-32',
    'convnext/convnext-tiny',
    'resnext50_32x4d',
    'seresnext50_32x4d',
    'regnet/regnetx_400mf',
)
"""Convolutions, plain, depthwise and grouped, and norms."""

OTHERS = (
    'convnext_v2/atto',
    'poolformer/poolformer_s12',
    'regnet/regnetx_800mf',
    'res2net50-w14-s8',
    'res2net50-w26-s4',
    'resnest50',
    'shufflenet_v1_1x',
    'shufflenet_v2_1x',
    'hornet/hornet-tiny',
    'hornet/hornet-tiny-gf',
    'van/van_tiny',
    'replknet-31B_in1k',
    'repmlp-base_224',
    'mlp_mixer_base_patch16',
    'vit-base-p16',
    'deit3/deit3-small-p16-224',
    't2t-vit-t-14',
    'tnt_s_patch16_224',
    'swin_transformer/tiny_224',
    'twins_pcpvt_base',
    'twins_svt_base',
    'davit/davit-tiny',
    'mvit/mvitv2-tiny',
    'mixmim/mixmim_base',
    'revvit/revvit-small',
    'conformer/tiny-p16',
    'levit-256-p16',
    'efficientformer-l1',
    'edgenext/edgenext-xsmall',
    'mobilevit/mobilevit_xxs',
    'tinyvit/tinyvit-5m',
    'vig/vig_tiny',
    'vig/pyramid_vig_tiny',
)
"""Splits, shuffles, gates, attention of every kind, token mixers and graphs."""

ZOO: dict[str, float] = {
    **dict.fromkeys(CONVOLUTIONAL, PLAIN_BAR),
    **dict.fromkeys(OTHERS, ATTENTION_BAR),
    # Matrices from place to place hold 40.0 of its 68.2 million parameters. Those of the first
    # stage, 19.7 million, cannot go; the others could, were sets of channels removed whole.
    'repmlp-base_224': 0.70,
}
"""Model config of mmcls -> the share of its parameters that may stay at ratio 0.5."""

PLACES = 'places of the image'
OFFSETS = 'offsets between places'
FREQUENCIES = 'frequencies of the image'
PIXELS = 'pixels of a patch of the input'
WAVES = 'sines and cosines of places'
INSIDE = 'channels of a head that goes as a whole'
HEADS = 'heads that lose channels instead'
SETS = 'sets of channels that lose channels instead'

LAWS = {
    r'\.complex_weight#[01]$': FREQUENCIES,
    r'\.stages\.0\.\d\.repmlp_block\.fc3|\.token_mix\.layers\.(0\.0\.weight|1)$': PLACES,
    r'^backbone\.(absolute_pos_embed|pos_embed(#[01])?|patch_pos|pixel_pos#[01])$': PLACES,
    r'\.repmlp_block\.(fc3|repconv\d)': SETS,
    r'\.pos_embed\.proj\.weight$': WAVES,
    r'\.attention1\.(ln1\.bias|attn\.qkv\.weight)$': PIXELS,
    r'\.(relative_position_bias_table#1|attention_biases#0)$': HEADS,
    r'\.(relative_position_bias_table|rel_pos_[hw])(#0)?$': OFFSETS,
    r'\.attention_biases(#1)?$|\.relative_pos#[01]$': OFFSETS,
    r'\.rel_pos_[hw]#1$|\.pool_[qkv]$|\.norm_[qkv]\.bias$': INSIDE,
}
"""Pattern of the names of pinned groups -> what these groups number; the first that matches.

They are no channels: a parameter with a row per place of the image, or per offset between two
places, has as many rows as there are places, and what removes one removes a part of the image.
``INSIDE`` and ``HEADS`` are a choice: with ``attention='dims'`` the first go, with ``'heads'`` the
second. ``SETS`` are mmprune's choice.
"""

CHOICES = {
    name: 'which neighbours are nearest' for name in ('vig/vig_tiny', 'vig/pyramid_vig_tiny')
}
"""Networks that choose -> what. Where two candidates are equal but for rounding, two right
computations in float32 choose differently; that they are right shows in float64."""


def law(space_id: str) -> str | None:
    """The law by which the group ``space_id`` cannot be pruned; None without one."""
    return next((words for pattern, words in LAWS.items() if re.search(pattern, space_id)), None)
