import pytest
import torch
from torch import nn

from mmprune.models import kept_norm_statistics, recalibrate_norm_statistics


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.9), nn.BatchNorm2d(3))
    for norm in (net[1], net[3]):
        nn.init.uniform_(norm.running_mean, -5, 5)
        nn.init.uniform_(norm.running_var, 1, 5)
    return net


@pytest.mark.parametrize(
    'given', [lambda batch: batch, lambda batch: [batch, batch[:1]], lambda batch: {'input': batch}]
)
def test_recalibrated_statistics_are_the_weighted_averages_of_the_batches(given) -> None:
    """Of inputs, of inputs with labels, of keywords."""
    net = network().double()
    batches = [torch.randn(size, 2, 4, 4).double() for size in (8, 8, 3)]

    assert recalibrate_norm_statistics(net, map(given, batches)) == 19

    weights = torch.tensor([8, 8, 3]).double() / 19
    with torch.no_grad():
        outputs = [net[0](batch) for batch in batches]
    means = torch.stack([out.mean((0, 2, 3)) for out in outputs])
    variances = torch.stack([out.transpose(0, 1).flatten(1).var(1) for out in outputs])
    torch.testing.assert_close(net[1].running_mean, weights @ means)
    torch.testing.assert_close(net[1].running_var, weights @ variances)


def test_dropout_is_off_while_recalibrating() -> None:
    net = network().double()
    recalibrate_norm_statistics(net, [torch.randn(64, 2, 4, 4).double()])
    # The second norm sees what the first puts out: mean 0 and variance 1, unless channels drop.
    torch.testing.assert_close(net[3].running_var, torch.ones(3).double(), rtol=0.01, atol=0)


def test_recalibrating_touches_nothing_but_the_statistics() -> None:
    net = network().train()
    net[1].momentum, net[3].momentum = 0.3, None
    net[2].eval()
    weights = {name: value.clone() for name, value in net.named_parameters()}

    recalibrate_norm_statistics(net, [torch.randn(4, 2, 4, 4)])

    assert (net[1].momentum, net[3].momentum) == (0.3, None)
    assert [module.training for module in net] == [True, True, False, True]
    for name, value in net.named_parameters():
        assert torch.equal(value, weights[name])
        assert value.grad is None


def test_no_batches_are_refused_before_anything_changes() -> None:
    net = network()
    before = net[1].running_mean.clone()
    with pytest.raises(ValueError, match='at least one batch'):
        recalibrate_norm_statistics(net, [])
    assert torch.equal(net[1].running_mean, before)


def test_a_network_without_statistics_needs_no_batches() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert recalibrate_norm_statistics(net, []) == 0


def test_modes_and_momenta_come_back_after_a_failure() -> None:
    net = network().train()
    with pytest.raises(RuntimeError):
        recalibrate_norm_statistics(net, [torch.randn(4, 7, 4, 4)])
    assert all(module.training for module in net)
    assert net[1].momentum == 0.1


def test_kept_statistics_come_back_after_a_failure() -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with pytest.raises(KeyError), kept_norm_statistics(net):
        net(torch.randn(4, 2, 4, 4))
        assert not torch.equal(net[1].running_mean, before['1.running_mean'])
        raise KeyError
    for name, value in net.named_buffers():
        assert torch.equal(value, before[name]), name
