# Half of the MACs of the trained network.
#   mim download mmsegmentation --dest checkpoints \
#       --config segformer_mit-b0_8xb2-160k_ade20k-512x512
#   python tools/prune.py configs/mmseg/prune_segformer_mit-b0_8xb2-160k_ade20k-512x512.py \
#       CHECKPOINT --out-dir pruned
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/prune_half_of_macs.py',
]
