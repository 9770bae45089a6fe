# Half of the MACs of the trained network.
#   mim download mmpose --dest checkpoints \
#       --config rtmpose-s_8xb256-420e_coco-256x192
#   python tools/prune.py configs/mmpose/prune_rtmpose-s_8xb256-420e_coco-256x192.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
    '../_base_/prune_half_of_macs.py',
]
