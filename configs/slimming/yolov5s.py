# YOLOv5s of release 6.0, with the classes of COCO: a detector to prune, without data or a loss.
#   python tools/diagnose.py configs/slimming/yolov5s.py --input-shape 1 3 64 64
_base_ = ['../_base_/default_runtime.py']

model = dict(type='mmprune.YOLOv5', num_classes=80, depth=0.33, width=0.5)
