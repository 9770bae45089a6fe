"""Criteria score the weights that layers use, however those come from parameters."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from randomised import randomise, scattered
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from mmprune.errors import InputError
from mmprune.registry import PRUNERS

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LAYERS = ('0', '2', '4', '8')


class Bent(nn.Module):
    """A parametrisation of one's own."""

    def forward(self, weight):
        return weight / (0.1 + weight.abs()).sqrt()


class Standardised(nn.Conv2d):
    """Filters of mean 0 and standard deviation 1, times a length, computed in the forward."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    @property
    def used(self):
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return (self.weight - mean) / (deviation + 1e-5) * self.gain

    def forward(self, x):
        return F.conv2d(x, self.used, self.bias, self.stride, self.padding, 1, self.groups)


class ByBatchNorm(Standardised):
    """The same by a batch norm of the weight, which turns its shape for a moment."""

    @property
    def used(self):
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = self.gain.view(-1)
        return F.batch_norm(flat, None, None, gain, training=True).reshape_as(self.weight)


class Equalised(nn.Linear):
    """Columns have factors of their own, computed in the forward."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.in_features))

    @property
    def used(self):
        return self.weight * self.gain.exp()

    def forward(self, x):
        return x @ self.used.t() + self.bias


def _old(function):
    def wrap(layer):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)
            return function(layer)

    return wrap


def _parametrized(layer):
    parametrize.register_parametrization(layer, 'weight', Bent())
    return layer


def _masked(layer):
    prune.ln_structured(layer, 'weight', 0.4, n=1, dim=0)
    return prune.l1_unstructured(layer, 'weight', 0.2)


KINDS = {
    'weight_norm': parametrizations.weight_norm,
    'old weight_norm': _old(weight_norm),
    'spectral_norm': parametrizations.spectral_norm,
    'old spectral_norm': _old(spectral_norm),
    'parametrize': _parametrized,
    'prune': _masked,
    'two of them': lambda layer: _parametrized(parametrizations.weight_norm(layer)),
    'standardised': None,
    'by batch_norm': None,
}
# Their sizes are sums over all of the weight, so that no group of it can be cut alone.
WHOLE = ('spectral_norm', 'old spectral_norm', 'standardised', 'by batch_norm')
CRITERIA = {
    'L1Importance': {},
    'L2Importance': {},
    'LpImportance': dict(p=3, members='outputs'),
    'LAMPImportance': {},
    'FPGMImportance': dict(members='all'),
    'BNScaleImportance': dict(fallback=dict(type='L1Importance')),
    'TaylorImportance': {},
    'HessianImportance': dict(num_draws=2),
    'ActivationImportance': {},
    'APoZImportance': {},
    'VarianceImportance': {},
    'GroupFisherImportance': {},
}


def network(kind=None, groups=2):
    """All kinds of layers, which compute their weights unless ``kind`` is None."""
    torch.manual_seed(0)
    conv = {'standardised': Standardised, 'by batch_norm': ByBatchNorm}.get(kind, nn.Conv2d)
    linear = nn.Linear if conv is nn.Conv2d else Equalised
    wrap = KINDS.get(kind) or (lambda layer: layer)
    groups = 1 if kind in WHOLE else groups
    layers = [
        wrap(conv(3, 8, 3)), nn.ReLU(),
        wrap(conv(8, 8, 3, padding=1, groups=8)), nn.ReLU(),
        wrap(conv(8, 12, 3, groups=groups)),
        nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
        wrap(linear(12 * 25, 4)),
    ]  # fmt: skip
    model = nn.Sequential(*layers).double()
    masks = {name: mask.clone() for name, mask in model.named_buffers() if '_mask' in name}
    randomise(model).load_state_dict(masks, strict=False)
    return model.eval()


def used(layer):
    """The weight that a layer uses."""
    return getattr(layer, 'used', layer.weight).detach()


def plain(model):
    """The network with the weights that it uses as parameters."""
    model(IMAGE)  # hooks compute
    twin = network(None, groups=model[4].groups)
    twin.load_state_dict(model.state_dict(), strict=False)
    for name in LAYERS:
        ours = model.get_submodule(name)
        twin.get_submodule(name).weight.data.copy_(used(ours))
        twin.get_submodule(name).bias.data.copy_(ours.bias)
    torch.testing.assert_close(twin(IMAGE), model(IMAGE), rtol=1e-10, atol=1e-10)
    return twin


def prepared(model, **options):
    pruner = PRUNERS.build(dict(type='ImportancePruner', ratio=0.5, scope='local') | options)
    pruner.prepare_from_supernet(model, IMAGE)
    return pruner


def loss_fn(model, batch):
    return (model(batch) - 0.3).square().sum()


def scores(model, criterion, **options):
    pruner = prepared(model, importance=dict(type=criterion, **options))
    if pruner.needs_data:
        pruner.collect([IMAGE, 0.5 * IMAGE], loss_fn)
    groups = {n: g for n, g in pruner.channel_groups.items() if g.prunable}
    return {name: pruner.importance.scores(group, model) for name, group in groups.items()}


@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('kind', KINDS)
def test_scores_are_those_of_the_weights_that_are_used(kind, criterion):
    model = network(kind)
    expected = scores(plain(model), criterion, **CRITERIA[criterion])
    found = scores(model, criterion, **CRITERIA[criterion])
    assert found.keys() == expected.keys() == {'0', '4'}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-12)
        assert np.ptp(values) > 0


@pytest.mark.parametrize(
    ('kind', 'criterion'),
    [
        (kind, criterion)
        for kind in ('weight_norm', 'old weight_norm', 'prune')
        for criterion in CRITERIA
        # How long a filter is does not change which of its outputs are 0.
        if kind == 'prune' or criterion != 'APoZImportance'
    ],
)
def test_short_and_masked_filters_go_first(kind, criterion):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 2, 1)
    model = nn.Sequential(*layers).double().eval()
    short = torch.arange(8) % 2 == 0
    if kind == 'prune':
        prune.custom_from_mask(model[0], 'weight', (~short).view(8, 1, 1, 1).expand(8, 3, 3, 3))
    else:
        model[0] = KINDS[kind](model[0])
        lengths, directions = sorted(model[0].parameters(), key=torch.Tensor.numel)
        with torch.no_grad():
            lengths.copy_(torch.where(short, 1e-3, 2.0).view(-1, 1, 1, 1))
            directions.mul_(torch.where(short, 20, 0.05).view(-1, 1, 1, 1))
    options = dict(fallback=dict(type='L1Importance')) if criterion.startswith('BN') else {}
    pruner = prepared(model, importance=dict(type=criterion, **options))
    if not criterion.startswith(('A', 'V')):
        pruner.importance.members = 'outputs'
    if pruner.needs_data:
        pruner.collect([IMAGE], loss_fn)
    kept = pruner.prune()['0'].flatten().bool()
    assert kept.tolist() == (~short).tolist()


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('kind', ['weight_norm', 'old spectral_norm', 'prune', 'standardised'])
@pytest.mark.parametrize('criterion', ['TaylorImportance', 'L1Importance', 'ActivationImportance'])
def test_a_subnet_that_is_set(criterion, kind, execution):
    """Weights are scored at full width; what looks at data sees what the subnet has."""
    model = network(kind)
    pruner = prepared(model, importance=dict(type=criterion), execution=execution)
    full = None
    if not pruner.needs_data:
        full = {
            n: pruner.importance.scores(g, model)
            for n, g in pruner.channel_groups.items()
            if g.prunable
        }
    pruner.set_subnet(scattered(pruner))
    if full is not None:
        for name, values in full.items():
            found = pruner.importance.scores(pruner.channel_groups[name], model)
            np.testing.assert_array_equal(found, values)
        return
    pruner.collect([IMAGE], loss_fn)
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    own = prepared(small, importance=dict(type=criterion))
    own.collect([IMAGE], loss_fn)
    for name, mask in pruner.current_subnet().items():
        kept = mask.flatten().bool().numpy()
        found = pruner.importance.scores(pruner.channel_groups[name], model)
        expected = own.importance.scores(own.channel_groups[name], small)
        np.testing.assert_allclose(found[kept], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[~kept], 0, atol=1e-12)


def test_scales_of_norms_that_are_computed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    randomise(model).eval()
    prune.custom_from_mask(model[1], 'weight', torch.tensor([1, 0, 1, 0]))
    prune.custom_from_mask(model[1], 'bias', torch.tensor([0, 1, 1, 1]))  # is no scale
    found = scores(model, 'BNScaleImportance')['0']
    np.testing.assert_allclose(found, model[1].weight.detach().abs())
    assert (found == 0).tolist() == [False, True, False, True]


class Twice(nn.Module):
    """A layer with a computed weight that runs twice."""

    def __init__(self, wrap=parametrizations.weight_norm):
        super().__init__()
        self.a, self.b = wrap(nn.Conv2d(3, 6, 1)), wrap(nn.Conv2d(6, 6, 1))
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(self.b(self.b(self.a(x)).relu()))


@pytest.mark.parametrize('criterion', ['L1Importance', 'TaylorImportance', 'HessianImportance'])
def test_a_layer_that_runs_twice_counts_once(criterion):
    model = randomise(Twice().double()).eval()
    twin = Twice(lambda layer: layer).double().eval()
    twin.load_state_dict(model.state_dict(), strict=False)
    for ours, theirs in ((model.a, twin.a), (model.b, twin.b)):
        theirs.weight.data.copy_(ours.weight)
    (expected,), (found,) = (scores(m, criterion).values() for m in (twin, model))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


class Unseen(nn.Conv2d):
    """Computes its weight in a way that no call of a torch function shows."""

    def forward(self, x):
        weight = self.weight.clone()
        weight.mul_(2)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize('criterion', ['L1Importance', 'TaylorImportance'])
def test_what_cannot_be_followed_is_refused(criterion):
    model = nn.Sequential(Unseen(3, 4, 1), nn.Conv2d(4, 2, 1)).double().eval()
    message = "group '0': .* cannot see the weight that '0' computes from '0.weight': choose"
    with pytest.raises(InputError, match=message):
        scores(model, criterion)
    assert scores(model, 'ActivationImportance')['0'].shape == (4,)


class Attention(nn.Module):
    """Attention whose weight of queries, keys and values is computed."""

    def __init__(self, wrap):
        super().__init__()
        self.a, self.attention = nn.Linear(3, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 4)
        wrap(self.attention)

    def forward(self, x):
        x = self.a(x.flatten(2).transpose(1, 2))
        return self.head(x + self.attention(x, x, x)[0])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda layer: parametrize.register_parametrization(layer, 'in_proj_weight', Bent()),
        lambda layer: prune.l1_unstructured(layer, 'in_proj_weight', 0.3),
    ],
    ids=['parametrize', 'prune'],
)
@pytest.mark.parametrize('criterion', ['L1Importance', 'TaylorImportance'])
def test_weights_of_attention(wrap, criterion):
    torch.manual_seed(0)
    model = Attention(wrap).double().eval()
    model(IMAGE)
    twin = Attention(lambda layer: None).double().eval()
    twin.load_state_dict(model.state_dict(), strict=False)
    twin.attention.in_proj_weight.data.copy_(model.attention.in_proj_weight)
    expected, found = scores(twin, criterion), scores(model, criterion)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9)
    pruner = prepared(model)
    pruner.prune()
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok
