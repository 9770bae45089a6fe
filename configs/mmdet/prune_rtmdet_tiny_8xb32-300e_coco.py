# Half of the MACs of the trained network.
#   mim download mmdet --dest checkpoints \
#       --config rtmdet_tiny_8xb32-300e_coco
#   python tools/prune.py configs/mmdet/prune_rtmdet_tiny_8xb32-300e_coco.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/prune_half_of_macs.py',
]
