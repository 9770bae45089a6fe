# Half of the MACs of the trained network.
#   mim download mmdet --dest checkpoints \
#       --config retinanet_r50_fpn_1x_coco
#   python tools/prune.py configs/mmdet/prune_retinanet_r50_fpn_1x_coco.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/prune_half_of_macs.py',
]
