# Half of the MACs of the trained network.
#   mim download mmdet --dest checkpoints \
#       --config faster-rcnn_r50_fpn_1x_coco
#   python tools/prune.py configs/mmdet/prune_faster-rcnn_r50_fpn_1x_coco.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    '../_base_/prune_half_of_macs.py',
]
