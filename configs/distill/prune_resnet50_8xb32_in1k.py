# ResNet-50 at half of its MACs, by absolute weights, with the weights that are left compensated.
#   mim download mmcls --config resnet50_8xb32_in1k --dest checkpoints
#   python tools/prune.py configs/distill/prune_resnet50_8xb32_in1k.py \
#       checkpoints/resnet50_8xb32_in1k_20210831-ea4938fc.pth --out-dir pruned
_base_ = [
    'mmcls::_base_/models/resnet50.py',
    'mmcls::_base_/datasets/imagenet_bs32.py',
    'mmcls::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmprune.AutoSlim',
    architecture=_base_.model,
    input_shape=(1, 3, 224, 224),
    pruner=dict(
        type='ImportancePruner',
        budget=dict(macs=0.5),
        importance=dict(type='L1Importance'),
        round_to=8,
        except_start_keys=['head.fc'],
    ),
)
prune_cfg = dict(compensation=dict(type='LeastSquares', images=dict(num_batches=4, batch_size=64)))
