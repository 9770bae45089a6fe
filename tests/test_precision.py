"""Networks that take choices: float32 tips them, float64 tells that nothing is wrong."""

import pytest
import torch
from torch import nn

from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.registry import PRUNERS
from mmprune.trace.in_double import in_double


class Choices(nn.Module):
    """Turns the sign of every other thousandth: in float32, rounding decides for some pixels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 2, 1)

    def forward(self, x):
        x = self.b(torch.relu(self.a(x)))
        sign = 1 - 2 * ((x.sum(1, keepdim=True) * 1e3) % 2 > 1).to(x)
        return self.head(x * sign)


class Chaos(Choices):
    """Magnifies differences millions of times: all is different in float32, little in float64."""

    def forward(self, x):
        x = self.b(torch.relu(self.a(x)))
        return self.head(x * torch.sin(3e6 * x.sum(1, keepdim=True).sigmoid()))


@pytest.fixture(params=[Choices])
def prepared(request):
    torch.manual_seed(0)
    model = request.param().eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.randn(4, 3, 48, 48))
    return model, pruner


def test_choices_that_rounding_tips_are_no_reason_to_refuse_a_network(prepared):
    _, pruner = prepared
    assert all(pruner.channel_groups[name].prunable for name in ('a', 'b'))
    reports = [pruner.verify_subnet() for _ in range(40)]
    assert all(report.ok for report in reports)
    # Not every subnet has a pixel whose choice is that close.
    report = max(reports, key=lambda report: report.rounding)
    assert report.rounding > 1e-3
    assert report.max_rel_err < 1e-10
    assert report.tolerance == 1e-10
    assert 'in float64. In its own type they differ by' in str(report)


@pytest.mark.parametrize('prepared', [Chaos], indirect=True)
def test_what_shrinks_as_rounding_does_is_rounding(prepared):
    _, pruner = prepared
    assert all(pruner.channel_groups[name].prunable for name in ('a', 'b'))
    reports = [pruner.verify_subnet() for _ in range(5)]
    assert all(report.ok for report in reports)
    report = max(reports, key=lambda report: report.rounding and report.max_rel_err)
    assert report.rounding > 1e-3
    assert 1e-10 < report.max_rel_err <= report.tolerance <= 1e-7 * report.rounding
    assert 'a mistake would be as large in float64' in str(report)


def test_the_supernet_stays_in_its_own_type(prepared):
    model, pruner = prepared
    weight, numbers = model.a.weight, model.a.weight.detach().clone()
    pruner.verify_subnet()
    assert model.a.weight is weight
    assert torch.equal(model.a.weight, numbers)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize('prepared', [Choices, Chaos], indirect=True)
def test_a_mistake_is_still_found(prepared, monkeypatch):
    model, pruner = prepared
    deploy = pruner.deploy_subnet
    pruner.set_min_channel()
    wrong = deploy(model, pruner.export_subnet())
    with torch.no_grad():
        wrong.b.weight[0, 0] += 1e-3
    monkeypatch.setattr('mmprune.supernet.verification.deploy', lambda *_: wrong)
    report = pruner.verify_subnet(subnet=pruner.current_subnet())
    assert not report.ok
    assert report.rounding == 0


def test_float64_is_lent_and_given_back():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[0].cached = torch.ones(4)
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    assert is_rounded(model)
    with pytest.raises(ZeroDivisionError), in_float64(model):
        assert not is_rounded(model)
        assert model[0].cached.dtype == model[1].running_var.dtype == torch.float64
        assert model[1].num_batches_tracked.dtype == torch.int64
        model(float64_input(torch.randn(1, 3, 2, 2)))
        raise ZeroDivisionError
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert (id(tensor), tensor.dtype) == (before[name][0], before[name][1].dtype)
        assert torch.equal(tensor, before[name][1])
    assert model[0].cached.dtype == torch.float32


def test_only_float_tensors_of_an_input_change():
    image, index = torch.randn(2), torch.arange(2)
    found = float64_input({'image': image, 'more': [index, 'text']})
    assert found['image'].dtype == torch.float64
    assert found['more'][0] is index
    assert found['more'][1] == 'text'
    call = lambda model: model(image)  # noqa: E731
    assert float64_input(call) is call


class SinglePrecision(torch.autograd.Function):
    """An operation without a kernel for float64, as some of detectors are."""

    @staticmethod
    def forward(ctx, x):
        assert x.dtype is torch.float32, 'not implemented for Double'
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ChoicesInFloat32(Choices):
    def forward(self, x):
        return super().forward(SinglePrecision.apply(x))


def test_a_network_that_has_no_float64_is_told_so(monkeypatch):
    torch.manual_seed(0)
    model = ChoicesInFloat32().eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.randn(1, 3, 8, 8))
    pruner.set_min_channel()
    wrong = pruner.deploy_subnet(model, pruner.export_subnet())
    with torch.no_grad():
        wrong.head.weight[0, 0] += 1e-3
    monkeypatch.setattr('mmprune.supernet.verification.deploy', lambda *_: wrong)
    report = pruner.verify_subnet(subnet=pruner.current_subnet())
    assert not report.ok
    assert report.tolerance == 1e-5
    assert 'Float64 would tell rounding from a mistake, but: ' in report.problem
    assert 'not implemented for Double' in report.problem
    assert report.roads == ('eval', 'train')


def test_passes_that_end_in_another_order_leave_the_default_type_alone():
    first, second = in_double(), in_double()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_default_dtype() is torch.float64
    second.__exit__(None, None, None)
    assert torch.get_default_dtype() is torch.float32


def test_the_subnets_of_a_verification_are_drawn_by_the_seed(prepared, monkeypatch):
    _, pruner = prepared
    drawn = []
    monkeypatch.setattr(
        'mmprune.pruners.structure_pruner.verify', lambda _, alive, cfg: drawn.append(alive)
    )
    state = torch.get_rng_state()
    pruner.verify_subnet()
    pruner.verify_subnet()
    assert torch.equal(torch.get_rng_state(), state)
    assert (drawn[0] != drawn[1]).any()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(Choices().eval(), torch.randn(4, 3, 48, 48))
    pruner.verify_subnet()
    assert (drawn[0] == drawn[2]).all()
    torch.manual_seed(1)
    pruner.verify_subnet()
    assert (drawn[1] != drawn[3]).any()
