"""Jobs of mmengine's runner, with hooks and optimizers that look into the model, of an AutoSlim."""

import copy
import pickle

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from mmengine.registry import MODELS as ENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn

from mmprune.models import AutoSlim
from mmprune.models.autoslim_ddp import AutoSlimDDP


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8)
        self.body = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.body(torch.relu(self.norm(self.stem(x)))).mean((2, 3))

    def get_layer_depth(self, name, prefix=''):
        return (0 if name.startswith(f'{prefix}stem') else 1), 3


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.weight_of_loss = nn.Linear(8, 2), 1.0

    def forward(self, x):
        return self.fc(x)


class Network(BaseModel):
    epoch = 0

    def __init__(self):
        super().__init__()
        self.backbone, self.head, self.alpha = Backbone(), Head(), 0.5

    @property
    def with_head(self):
        return True

    def get_layer_depth(self, name):
        return self.backbone.get_layer_depth(name, 'backbone.')

    def set_epoch(self, epoch):
        self.epoch = epoch

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.head(self.backbone(inputs))
        if mode == 'loss':
            loss = nn.functional.cross_entropy(scores, data_samples)
            return {'loss': loss * self.head.weight_of_loss}
        return scores


class Prefixed(DefaultOptimWrapperConstructor):
    """Goes by how names begin and by what the model has, as those of layer decay do."""

    def add_params(self, params, module, **_):
        assert type(module.backbone) is Backbone
        for name, parameter in module.named_parameters():
            depth = 2 if name.startswith('backbone.stem') else 1
            params.append({'params': [parameter], 'lr': self.base_lr / depth, 'name': name})


class Recursive(DefaultOptimWrapperConstructor):
    """Asks the model for the depth of each parameter."""

    def add_params(self, params, module, prefix='', depth_of=None):
        depth_of = depth_of or module.get_layer_depth
        for name, parameter in module.named_parameters(recurse=False):
            depth, most = depth_of(prefix + name)
            lr = self.base_lr / (most - depth)
            params.append({'params': [parameter], 'lr': lr, 'name': prefix + name})
        for name, child in module.named_children():
            self.add_params(params, child, f'{prefix}{name}.', depth_of)


class Switch(Hook):
    def before_train_epoch(self, runner):
        runner.model.set_epoch(runner.epoch)
        if runner.epoch == 1:
            runner.model.head.weight_of_loss = 0.25
            runner.model.alpha = 0.75
            runner.model.note = 'ours'


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ENGINE_MODELS.module_dict, 'SmallNetwork', Network)
    for kind in (Prefixed, Recursive):
        monkeypatch.setitem(OPTIM_WRAPPER_CONSTRUCTORS.module_dict, kind.__name__, kind)


def algorithm(**settings):
    pruner = dict(type='RatioPruner', ratios=[0.5, 1.0])
    options = dict(num_sample_training=2, input_shape=(1, 3, 8, 8), **settings)
    return AutoSlim(Network(), pruner, **options)


def optimizer_of(model, constructor='DefaultOptimWrapperConstructor', **paramwise):
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.1)
    cfg = dict(type='OptimWrapper', optimizer=sgd, constructor=constructor, paramwise_cfg=paramwise)
    return build_optim_wrapper(model, cfg).optimizer


def rates(optimizer):
    return [
        (group.get('name'), group['lr'], group['weight_decay']) for group in optimizer.param_groups
    ]


CONSTRUCTORS = {
    'Prefixed': {'num_layers': 3},
    'Recursive': {'rate': 0.5},
    'DefaultOptimWrapperConstructor': {'custom_keys': {'backbone.stem': dict(lr_mult=0.5)}},
}


@pytest.mark.filterwarnings('ignore:.broadcast_buffers. is deprecated')
@pytest.mark.parametrize('constructor', CONSTRUCTORS)
def test_constructors_of_optimizers_see_the_architecture(constructor):
    options = CONSTRUCTORS[constructor]
    expected = rates(optimizer_of(Network(), constructor, **options))
    assert len({lr for _, lr, _ in expected}) > 1
    model = algorithm()
    assert rates(optimizer_of(model, constructor, **options)) == expected
    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        wrapped = AutoSlimDDP(module=revert_sync_batchnorm(model))
        assert rates(optimizer_of(wrapped, constructor, **options)) == expected
    finally:
        torch.distributed.destroy_process_group()


def test_parameters_beside_the_architecture_are_trained_too():
    model = algorithm()
    model.scale = nn.Parameter(torch.ones(3))
    optimizer = optimizer_of(model, norm_decay_mult=0.0)
    assert optimizer.param_groups[-1]['params'] == [model.scale]
    trained = [p for group in optimizer.param_groups for p in group['params']]
    assert {*map(id, trained)} == {*map(id, model.parameters())}
    assert len(trained) == len(list(model.parameters()))


def test_attributes_of_the_architecture_are_read_and_written():
    model = algorithm()
    inside = model.architecture
    assert model.backbone is inside.backbone
    assert model.with_head
    assert not hasattr(model, 'neck')
    model.alpha, model.note = 3.0, 'ours'
    assert inside.alpha == 3.0
    assert not hasattr(inside, 'note')
    with pytest.raises(AttributeError, match='neck'):
        model.neck  # noqa: B018
    copied = copy.deepcopy(model)
    copied.alpha = 4.0
    assert (inside.alpha, copied.architecture.alpha) == (3.0, 4.0)
    assert (
        'architecture.head.fc.weight' in dict(model.named_parameters()) & model.state_dict().keys()
    )


def test_a_retrained_subnet_is_seen_through_and_can_be_pickled():
    model = algorithm()
    model.pruner.set_min_channel()
    retrained = algorithm(retraining=True, channel_cfg=model.pruner.export_subnet())
    assert pickle.loads(pickle.dumps(retrained)).head.fc.in_features == 4


def test_a_runner_reverts_its_norms_and_its_hooks_see_the_architecture(tmp_path):
    """SyncBN, a mode switch, an average and rates by names, from the first step to the last."""
    images = torch.rand(8, 3, 8, 8)
    data = [dict(inputs=image, data_samples=i % 2) for i, image in enumerate(images)]
    runner = Runner(
        model=algorithm(),
        work_dir=str(tmp_path),
        experiment_name='reverted',
        log_level='ERROR',
        train_cfg=dict(by_epoch=True, max_epochs=2),
        train_dataloader=dict(
            batch_size=4,
            dataset=data,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1),
            constructor='Prefixed',
            paramwise_cfg=dict(num_layers=3),
        ),
        custom_hooks=[Switch(), dict(type='EMAHook', update_buffers=True)],
    )
    model = runner.model
    assert type(model.backbone.norm).__name__ == '_BatchNormXd'
    runner.train()
    assert model.head.weight_of_loss == 0.25
    assert (model.architecture.epoch, model.architecture.alpha) == (1, 0.75)
    pruner = model.pruner
    pruner.set_min_channel()
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    assert saved.keys() == model.state_dict().keys() == algorithm().state_dict().keys()
    assert 'architecture.backbone.norm.out_mask' in saved
    again = algorithm()
    again.load_state_dict(saved)
    deployed = again.pruner.deploy_subnet(again)
    assert type(deployed) is Network
