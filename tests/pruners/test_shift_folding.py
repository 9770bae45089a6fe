"""Shifts of removed channels, folded: the network that is left computes the same without them."""

import copy

import pytest
import torch
from randomised import randomise
from torch import nn

from mmprune.registry import PRUNERS

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
GONE = [0, 3]


def block(inputs, outputs, kernel=1, **kwargs):
    return [nn.Conv2d(inputs, outputs, kernel, **kwargs), nn.BatchNorm2d(outputs)]


def prepared(model, data=IMAGE, gone=('1',), removed=2, **options):
    """Zero scales at ``GONE`` of some norms, whose channels are to go; (plain copy, pruner)."""
    model = randomise(model.double()).eval()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, norm in modules.items():
            if isinstance(norm, nn.modules.batchnorm._NormBase) and norm.weight is not None:
                norm.weight.abs_().add_(0.1)
                if name in gone:
                    norm.weight[GONE] = 0
    plain = copy.deepcopy(model)
    pruner = PRUNERS.build(dict(type='NetworkSlimming', **options))
    pruner.prepare_from_supernet(model, data)
    pruner.percent = removed / pruner.threshold().count
    return plain, model, pruner


def pruned(model, data=IMAGE, **options):
    plain, model, pruner = prepared(model, data, **options)
    pruner.prune()
    first = next(iter(pruner.current_subnet().values())).flatten()
    assert (first == 0).nonzero().flatten().tolist() == GONE
    return plain, pruner, pruner.deploy_subnet(model, pruner.export_subnet())


def assert_same(plain, deployed, data=IMAGE):
    expected = plain(data)
    assert expected.std() > 0.01
    torch.testing.assert_close(deployed(data), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    'rest',
    [
        [nn.ReLU(), nn.Conv2d(6, 4, 1)],
        [nn.SiLU(), nn.Conv2d(6, 4, 3)],
        [nn.Sigmoid(), nn.Conv2d(6, 4, 3, stride=2, dilation=2)],
        [nn.Hardswish(), nn.Conv2d(6, 4, 3, padding=1, padding_mode='replicate')],
        [nn.GELU(), nn.Conv2d(6, 4, 1, padding='valid')],
        [nn.ReLU(), nn.MaxPool2d(3, padding=1), nn.Conv2d(6, 4, 1)],
        [nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 1)],
        [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)],
        [nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4)],
        [nn.SiLU(), *block(6, 4, bias=False)],
        [nn.SiLU(), *block(6, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)],
        [nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 1)],
    ],
    ids=lambda layers: '-'.join(type(layer).__name__ for layer in layers),
)
def test_exact_where_scales_are_zero(rest):
    rest = copy.deepcopy(rest)
    plain, pruner, deployed = pruned(nn.Sequential(*block(3, 6), *rest))
    assert len(pruner.folding.layers) == 1
    assert not pruner.folding.left
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok
    assert_same(plain, deployed)


def test_without_folding_it_is_another_function():
    layers = [*block(3, 6), nn.SiLU(), nn.Conv2d(6, 4, 1)]
    plain, pruner, deployed = pruned(nn.Sequential(*layers), fold_shifts=False)
    assert pruner.folding is None
    assert (deployed(IMAGE) - plain(IMAGE)).abs().max() > 0.01


def test_the_number_by_hand():
    """The bias grows by the column of the removed channel times what its shift becomes."""
    model = nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    plain, pruner, deployed = pruned(model)
    shifts = plain[1].bias[GONE].relu()
    expected = plain[3].bias + plain[3].weight[:, GONE, 0, 0] @ shifts
    torch.testing.assert_close(deployed[3].bias, expected.detach(), rtol=1e-12, atol=1e-12)
    assert pruner.folding.layers == {'3': 2}


def test_statistics_of_the_next_norm_by_hand():
    plain, _, deployed = pruned(nn.Sequential(*block(3, 6), nn.ReLU(), *block(6, 4, bias=False)))
    offset = plain[3].weight[:, GONE, 0, 0] @ plain[1].bias[GONE].relu()
    expected = (plain[4].running_mean - offset).detach()
    torch.testing.assert_close(deployed[4].running_mean, expected, rtol=1e-12, atol=1e-12)


class Residual(nn.Module):
    """Two scales per channel; the sum of both constants is passed on to two readers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*block(3, 6), nn.ReLU())
        self.branch = nn.Sequential(*block(6, 4), nn.ReLU(), *block(4, 6))
        self.left, self.right = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = (x + self.branch(x)).relu()
        return self.left(x) + self.right(x)


def test_residual_sums_pass_on_one_constant():
    plain, pruner, deployed = pruned(Residual(), gone=('stem.1', 'branch.4'))
    assert set(pruner.folding.layers) == {'left', 'right', 'branch.0'}
    assert_same(plain, deployed)


def test_depthwise_layers_pass_their_own_constant_on():
    layers = [*block(3, 6), nn.ReLU(), *block(6, 6, 3, groups=6, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(6, 4, 1))
    plain, pruner, deployed = pruned(model, gone=('1', '4'))
    assert list(pruner.folding.layers) == ['6']
    assert not pruner.folding.left
    assert_same(plain, deployed)


def test_grouped_layers():
    model = nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2))
    plain, pruner, deployed = pruned(model)
    assert pruner.folding.layers == {'3': 2}
    assert_same(plain, deployed)


# -- where it is not exact -----------------------------------------------------------------


def left_alone(model, name, why, **options):
    """The layer's bias is as it was, and it is said why."""
    plain, pruner, deployed = pruned(model, **options)
    assert why in pruner.folding.left[name]
    assert name not in pruner.folding.layers
    own = deployed.get_submodule(name).bias
    if own is not None:
        assert torch.equal(own, plain.get_submodule(name).bias)
    assert why in str(pruner.folding)
    assert name in str(pruner.folding)


def test_zeros_at_the_border():
    model = nn.Sequential(*block(3, 6), nn.SiLU(), nn.Conv2d(6, 4, 3, padding=1))
    left_alone(model, '3', 'pads with zeros')
    same = nn.Sequential(*block(3, 6), nn.SiLU(), nn.Conv2d(6, 4, 3, padding='same'))
    left_alone(same, '3', 'pads with zeros')


def test_zeros_at_the_border_of_a_pool():
    """The mean over a window that overlaps the border is not the constant."""
    model = nn.Sequential(
        *block(3, 6), nn.ReLU(), nn.AvgPool2d(3, stride=1, padding=1), nn.Conv2d(6, 4, 1)
    )
    with torch.no_grad():
        model[1].bias.fill_(1)
    left_alone(model, '4', 'more than a constant')


def test_no_place_for_it():
    model = nn.Sequential(*block(3, 6), nn.SiLU(), nn.Conv2d(6, 4, 1, bias=False), nn.ReLU())
    left_alone(model, '3', 'no bias of its own')


def test_transposed_layers():
    model = nn.Sequential(*block(3, 6), nn.SiLU(), nn.ConvTranspose2d(6, 4, 2, stride=2))
    left_alone(model, '3', 'is a ConvTranspose2d')


class Gated(nn.Module):
    """The gate of a channel depends on the image, but not on the place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*block(3, 6))
        self.gate, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.body(x) * self.gate(x.mean((2, 3), keepdim=True)))


def test_a_gate_depends_on_the_input():
    left_alone(Gated(), 'head', 'more than a constant', data=IMAGE[:1], gone=('body.1',))


def test_an_input_that_cannot_be_changed():
    model = nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    left_alone(model, '3', 'no second input', data=lambda network: network(IMAGE))


class Shared(nn.Module):
    """Two layers with one bias."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*block(3, 6))
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(3, 4, 1)
        self.right.bias = self.left.bias

    def forward(self, x):
        return self.left(self.body(x)) * self.right(x)


def test_a_bias_of_two_layers():
    left_alone(Shared(), 'left', 'no bias of its own', gone=('body.1',))


# -- taking it back --------------------------------------------------------------------------


@pytest.mark.parametrize('how', ['set_max_channel', 'set_subnet', 'unfold'])
def test_folding_is_taken_back_with_the_pruned_subnet(how):
    model = nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    plain, model, pruner = prepared(model)
    full = pruner.current_subnet()
    subnet = pruner.prune()
    bias = model[3].bias.detach().clone()
    assert (bias - plain[3].bias).abs().max() > 0.01
    pruner.set_subnet(subnet)  # the same: it stays
    assert torch.equal(model[3].bias, bias)
    arguments = (full,) if how == 'set_subnet' else ()
    getattr(pruner, how)(*arguments)
    assert pruner.folding is None
    torch.testing.assert_close(model[3].bias, plain[3].bias, rtol=1e-12, atol=1e-12)
    if how != 'unfold':
        torch.testing.assert_close(model(IMAGE), plain(IMAGE), rtol=1e-10, atol=1e-10)


def test_pruning_twice_folds_once():
    plain, model, pruner = prepared(nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    pruner.prune()
    pruner.prune()
    assert_same(plain, pruner.deploy_subnet(model, pruner.export_subnet()))


def test_nothing_removed_nothing_folded():
    plain, model, pruner = prepared(
        nn.Sequential(*block(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 1)), removed=0
    )
    pruner.prune()
    assert not pruner.folding.offsets
    assert torch.equal(model(IMAGE), plain(IMAGE))
