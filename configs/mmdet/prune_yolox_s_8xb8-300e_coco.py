# Half of the MACs of the trained network.
#   mim download mmdet --dest checkpoints \
#       --config yolox_s_8xb8-300e_coco
#   python tools/prune.py configs/mmdet/prune_yolox_s_8xb8-300e_coco.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    '../_base_/prune_half_of_macs.py',
]
