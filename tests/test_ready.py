"""The parts of a subnet's tensors, which a network looks after once when it is called."""

import copy

import pytest
import torch
from exactness import IMAGE, conv, prepare
from randomised import scattered
from torch import nn


def network():
    return nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


@pytest.fixture(params=['slice', 'mask'])
def prepared(request):
    torch.manual_seed(0)
    model, pruner = prepare(network(), execution=request.param)
    pruner.set_subnet(scattered(pruner))
    return model, pruner


def parts_of(model):
    return [m.__dict__['_mmprune'].parts for m in model if '_mmprune' in m.__dict__]


def assert_as_deployed(model, pruner):
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGE), deployed(IMAGE), rtol=1e-10, atol=1e-12)


def test_layers_take_their_parts_as_they_are(prepared):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    first = parts_of(model)
    assert sum(parts is not None for parts in first) >= 2
    assert_as_deployed(model, pruner)
    assert all(a is b for a, b in zip(first, parts_of(model), strict=True))


@pytest.mark.parametrize('write', [
    lambda model: model[0].weight.add_(1),
    lambda model: model[1].running_mean.add_(1),
    lambda model: model[4].bias.mul_(-2),
    lambda model: setattr(model[8], 'bias', nn.Parameter(model[8].bias + 1)),
    lambda model: setattr(model[3].weight, 'data', model[3].weight.data * 2),
    lambda model: model.load_state_dict({k: v + v for k, v in model.state_dict().items() if 'mask'
                                         not in k}, strict=False),
])  # fmt: skip
def test_what_is_written_between_two_runs_is_seen(prepared, write):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    with torch.no_grad():
        write(model)
    assert_as_deployed(model, pruner)


def test_a_switch_of_mode_takes_them_anew(prepared):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    model[0].weight.data.view(-1)[:] *= 2  # which nothing tells but the switch
    model.train()
    model.eval()
    assert_as_deployed(model, pruner)


def test_gradients_and_training_after_a_run_without(prepared):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    model(IMAGE).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    before = model[1].running_mean.clone()
    with torch.no_grad():
        model.train()(IMAGE)
    assert not torch.equal(model[1].running_mean, before)
    model.eval()
    assert_as_deployed(model, pruner)


class WithGradientsInside(nn.Module):
    """Turns gradients on for a part of itself, whoever has turned them off."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)

    def forward(self, x):
        x = self.a(x)
        with torch.enable_grad():
            return self.b(x.detach())


def test_gradients_turned_on_inside():
    model, pruner = prepare(WithGradientsInside())
    pruner.set_subnet(scattered(pruner))
    for _ in range(2):
        with torch.no_grad():
            output = model(IMAGE)
        output.sum().backward()
    assert model.b.weight.grad.abs().sum() > 0


def test_a_run_that_fails_leaves_nothing_behind(prepared):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model(IMAGE[:, :2])
    with torch.no_grad():
        model[0].weight.add_(1)
    expected = pruner.deploy_subnet(model, pruner.export_subnet())[0](IMAGE)
    with torch.no_grad():
        found = model[0](IMAGE)
    if found.shape == expected.shape:  # masked, it has the channels that the subnet lacks
        torch.testing.assert_close(found, expected)
    assert_as_deployed(model, pruner)


def test_copies_have_parts_of_their_own(prepared):
    model, pruner = prepared
    assert_as_deployed(model, pruner)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied[0].weight.mul_(2)
        copied[0].bias.mul_(2)
        assert not torch.allclose(copied(IMAGE), model(IMAGE))
        torch.testing.assert_close(copied[0](IMAGE), 2 * model[0](IMAGE))
    assert_as_deployed(model, pruner)
