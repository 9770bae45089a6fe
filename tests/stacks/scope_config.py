# The same with a classifier of the model zoo that `default_scope` names.
_base_ = ['./plain_config.py']

custom_imports = dict(imports=['mmprune'], allow_failed_imports=False)
data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=10, mean=[77.8], std=[95.8])
model = dict(
    architecture=dict(
        _delete_=True,
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            in_channels=1,
            stem_channels=8,
            base_channels=8,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=32,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            topk=(1,),
        ),
    ),
    pruner=dict(except_start_keys=['head.fc']),
)
val_evaluator = dict(_delete_=True, type='Accuracy', topk=1)
test_evaluator = val_evaluator
