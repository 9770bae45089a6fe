# Half of the MACs of the trained network.
#   mim download mmsegmentation --dest checkpoints \
#       --config pspnet_r50-d8_4xb2-40k_cityscapes-512x1024
#   python tools/prune.py configs/mmseg/prune_pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/prune_half_of_macs.py',
]
