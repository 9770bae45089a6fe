"""Modules that are replaced after a network was prepared are followed, or refused by name."""

import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmprune.pruners import SubnetError
from mmprune.registry import PRUNERS
from mmprune.testing.comparisons import outputs_of, randomise, scattered, train_step

IMAGES = torch.rand(2, 3, 8, 8, dtype=torch.float64)


class Network(nn.Module):
    def __init__(self, norm=nn.SyncBatchNorm):
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 3, bias=False), norm(8), nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3), norm(12), nn.ReLU())
        self.mixer, self.fixed, self.head = nn.Linear(12, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.body(self.act(self.norm(self.stem(x)))).mean((2, 3))
        return self.head(self.fixed(torch.tanh(self.mixer(x))))


def prepared(norm=nn.SyncBatchNorm, execution='slice'):
    model = randomise(Network(norm).double()).eval()
    settings = dict(type='RatioPruner', ratios=[0.5], execution=execution)
    pruner = PRUNERS.build({**settings, 'except_start_keys': ['fixed']})
    pruner.prepare_from_supernet(model, IMAGES)
    return model, pruner


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_norms_that_are_swapped_are_followed_while_a_subnet_is_set(execution):
    """mmengine's runner replaces every SyncBN in a run that is not distributed."""
    model, pruner = prepared(execution=execution)
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    deployed, keys = pruner.deploy_subnet(model), list(model.state_dict())
    model = revert_sync_batchnorm(model)
    assert type(model.norm) is not nn.SyncBatchNorm
    torch.testing.assert_close(outputs_of(model, IMAGES), outputs_of(deployed, IMAGES))
    assert list(model.state_dict()) == keys
    assert pruner.verify_subnet(subnet=subnet).ok
    for _ in range(2):
        torch.testing.assert_close(train_step(model, IMAGES), train_step(deployed, IMAGES))
    again = pruner.deploy_subnet(model).state_dict()
    torch.testing.assert_close(again, deployed.state_dict(), rtol=1e-9, atol=1e-12)
    pruner.set_max_channel()
    assert [m.num_features for m in (model.norm, model.body[1])] == [8, 12]
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model.eval())
    assert type(pruner.deploy_subnet(model, pruner.export_subnet()).norm) is nn.SyncBatchNorm


def test_processes_need_not_go_in_step_while_a_network_is_prepared():
    """A SyncBN in training takes the statistics of all of them, and only on their devices."""
    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        with pytest.raises(ValueError, match='to be on GPU'):
            prepared()[0].train()(IMAGES)
        _, pruner = prepared()
        report = pruner.verify_subnet(subnet=scattered(pruner))
        assert report.ok, report
        assert report.roads == ('eval', 'train')
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('ask', ['keys', 'load', 'copy', 'export', 'deploy'])
def test_whatever_is_asked_first_sees_the_norms_of_now(ask):
    model, pruner = prepared()
    pruner.set_subnet(scattered(pruner))
    cfg, small = pruner.export_subnet(), outputs_of(model, IMAGES)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model = revert_sync_batchnorm(model)
    if ask == 'keys':
        assert model.state_dict().keys() == state.keys()
    elif ask == 'load':
        assert not any(model.load_state_dict(state))
    elif ask == 'copy':
        model = copy.deepcopy(model)
    elif ask == 'export':
        assert pruner.export_subnet() == cfg
    else:
        model = pruner.deploy_subnet(model)
    torch.testing.assert_close(outputs_of(model, IMAGES), small)


class Adapter(nn.Module):
    """A layer with something of low rank beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2).double()
        self.up = nn.Linear(2, base.out_features).double()

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def fuse(model):
    model.stem = fuse_conv_bn_eval(model.stem, model.norm)
    model.norm = nn.Identity()


def give_bias(model):
    model.stem.bias = nn.Parameter(torch.zeros(8, dtype=torch.float64))


def replace_all(model):
    model.body = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU()).double()


REFUSED = {
    'fused': (fuse, r"'stem' was a Conv2d .* is a Conv2d with other tensors now"),
    'adapter': (lambda m: setattr(m, 'mixer', Adapter(m.mixer)), r"'mixer' .* Linear .* Adapter"),
    'activation': (lambda m: setattr(m, 'act', nn.Sigmoid()), r"'act' was a ReLU .* a Sigmoid now"),
    'parametrised': (lambda m: parametrizations.weight_norm(m.stem), r"'stem' .* with other"),
    'sparse': (lambda m: prune.l1_unstructured(m.stem, 'weight', 0.2), r"'stem' .* with other"),
    'bias': (give_bias, r"'stem' was a Conv2d .* with other tensors now"),
    'removed': (lambda m: delattr(m.body, '1'), r"'body.1' was a BatchNorm2d .* is gone now"),
    'block': (replace_all, r"'body.0' was a Conv2d .* is a Conv2d with other tensors now"),
}


@pytest.mark.parametrize('ask', ['run', 'set', 'keys', 'export', 'deploy', 'verify'])
@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name, ask):
    model, pruner = prepared(nn.BatchNorm2d)
    pruner.set_min_channel()
    do, message = REFUSED[name]
    do(model)
    asked = {
        'run': lambda: model(IMAGES),
        'set': pruner.set_max_channel,
        'keys': model.state_dict,
        'export': pruner.export_subnet,
        'deploy': lambda: pruner.deploy_subnet(model),
        'verify': pruner.verify_subnet,
    }
    with pytest.raises(SubnetError, match=message + '.*prepare it again'):
        asked[ask]()


def test_the_way_out_is_to_prepare_again():
    model, pruner = prepared(nn.BatchNorm2d)
    fuse(model)
    model.mixer = Adapter(model.mixer)
    pruner.prepare_from_supernet(model, IMAGES)
    assert pruner.verify_subnet(subnet=scattered(pruner)).ok
    assert 'mixer.base_layer' in pruner.channel_spaces


def test_what_stands_beside_the_channels_may_be_replaced():
    model, pruner = prepared()
    pruner.set_subnet(scattered(pruner))
    model.head = Adapter(model.head)
    model(IMAGES)


class Wrapper(nn.Module):
    """Runs another module, as compiled and checkpointed ones are run."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize('place', ['body', 'mixer'])
def test_a_wrapper_changes_nothing(place):
    model, pruner = prepared(nn.BatchNorm2d)
    pruner.set_subnet(scattered(pruner))
    small = outputs_of(model, IMAGES)
    setattr(model, place, Wrapper(getattr(model, place)))
    assert pruner.supernet.execution.places.changed() == []
    torch.testing.assert_close(outputs_of(model, IMAGES), small)
    pruner.set_max_channel()
    assert not torch.equal(outputs_of(model, IMAGES)[0], small[0])
    setattr(model, place, Wrapper(nn.Sequential(getattr(model, place), nn.Linear(2, 2))))
    with pytest.raises(SubnetError, match=f"'{place}"):
        pruner.set_max_channel()
