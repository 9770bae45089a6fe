"""What mmprune ships to check other people's parts: its own pass, and wrong ones do not."""

import numpy as np
import pytest
import torch
from torch import nn

from mmprune import extend
from mmprune.extend import (
    BACKWARD_PARSERS,
    CHANNEL_RULES,
    IMPORTANCE,
    PRUNERS,
    RatioPruner,
    StructurePruner,
    Value,
    plain,
)
from mmprune.registry import table
from mmprune.testing import (
    Probe,
    check_importance,
    check_network,
    check_pruner,
    check_rule,
)
from mmprune.testing.comparisons import assert_close

IMAGES = torch.rand(2, 3, 8, 8)


def own(registry):
    entries = table(registry).items()
    return [n for n, entry in entries if entry.__module__.startswith('mmprune.')]


@pytest.mark.parametrize('name', own(IMPORTANCE))
def test_the_importances_of_mmprune_pass(name):
    options = {'p': 3} if name == 'LpImportance' else {}
    found = check_importance(dict(type=name, **options))
    assert found.what == name
    assert list(found.groups) == ['stem', 'branch', 'fuse']


PRUNER_OPTIONS = {
    'RatioPruner': dict(ratios=[0.25, 0.5, 1.0]),
    'ImportancePruner': dict(ratio=0.5),
    'NetworkSlimming': dict(percent=0.3),
    'MarkovPruner': dict(budget=dict(macs=0.5)),
}


@pytest.mark.parametrize('name', PRUNER_OPTIONS)
def test_the_pruners_of_mmprune_pass(name):
    found = check_pruner(dict(type=name, **PRUNER_OPTIONS[name]))
    assert 'stem' in found.groups
    assert found.subnets == 6
    assert found.kept < 1


def test_every_pruner_is_checked():
    assert PRUNER_OPTIONS.keys() == {*own(PRUNERS)} - {'StructurePruner'}


def test_a_network_passes_and_says_how_much_of_it_stays():
    network = Probe().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = check_network(network, IMAGES, keeps_at_most=0.45)
    assert 0.2 < found.kept < 0.45
    assert found.groups == {'stem': 8, 'branch': 6, 'fuse': 10}
    assert str(found).startswith('Probe: 4 subnets of 3 groups, ')
    assert network.training
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    with pytest.raises(AssertionError, match=r'of the parameters stay, at most 10\.0% may'):
        check_network(network, IMAGES, keeps_at_most=0.1)


class Sinc(nn.Module):
    def forward(self, x):
        return torch.sinc(x)


def test_a_network_of_which_nothing_can_go_does_not_pass():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Sinc(), nn.Conv2d(8, 4, 1))
    with pytest.raises(AssertionError, match=r'nothing can be pruned: .*SincBackward0'):
        check_network(network, IMAGES)


def test_nothing_is_left_to_chance_where_training_is_compared():
    dropped = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(), nn.Conv2d(8, 4, 1), nn.Dropout(0.1))
    assert check_network(dropped, IMAGES).kept < 0.6


def test_a_number_near_zero_is_as_far_off_as_the_large_ones_that_cancel_in_it():
    exact = torch.tensor([3e3, 1e-3], dtype=torch.float64)
    assert_close(exact, exact + 1e-9, 'a sum', 1e-10, 1e-12)
    with pytest.raises(AssertionError, match='a sum: Tensor-likes are not close'):
        assert_close(exact, exact + 1e-6, 'a sum', 1e-10, 1e-12)
    with pytest.raises(AssertionError, match='small'):
        assert_close(exact / 1e6, exact / 1e6 + 1e-11, 'small', 1e-10, 1e-12)


# -- rules -----------------------------------------------------------------------------------


class Cumsum(nn.Module):
    """Adds up along a dim, or does something else along it."""

    def __init__(self, dim, function=torch.cumsum):
        super().__init__()
        self.a, self.b, self.dim = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), dim
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x), self.dim))


@pytest.fixture
def cumsum(monkeypatch):
    """Registers a rule for cumsum."""

    def register(rule):
        parser = lambda grad_fn: ('cumsum', {'dim': plain(grad_fn._saved_dim)})  # noqa: E731
        for name in ('CumsumBackward', 'CumprodBackward'):
            monkeypatch.setitem(table(BACKWARD_PARSERS), name, parser)
        monkeypatch.setitem(table(CHANNEL_RULES), 'cumsum', rule)

    return register


def right(node, inputs, book):
    (value,) = inputs
    dim = node.attrs['dim'] % len(value.shape)
    factors = extend.without(value, {dim}, book, f'{node.where} adds up the channels')
    return Value(node.shapes[0], factors, value.fixed)


def test_a_right_rule_passes(cumsum):
    cumsum(right)
    found = check_rule('cumsum', Cumsum(3), IMAGES, keeps_at_most=0.6)
    assert found.what == "rule 'cumsum' in Cumsum"
    assert list(found.groups) == ['a']


def test_a_rule_that_pins_too_little_does_not_pass(cumsum):
    cumsum(lambda node, inputs, book: inputs[0])
    assert check_rule('cumsum', Cumsum(3), IMAGES).kept < 0.6
    # Products with removed channels are 0: preparing finds out, and takes the channels back.
    with pytest.raises(AssertionError, match=r'nothing can be pruned|Tensor-likes are not close'):
        check_rule('cumsum', Cumsum(1, torch.cumprod), IMAGES)


def test_a_rule_that_unites_nothing_does_not_pass(cumsum):
    """Labels in another order: what is kept of the next layer's inputs is something else."""

    def reversed_(node, inputs, book):
        (value,) = inputs
        return Value(value.shape, [np.flip(f, 1).copy() for f in value.factors], value.fixed)

    cumsum(reversed_)
    with pytest.raises(AssertionError, match=r'nothing can be pruned|Tensor-likes are not close'):
        check_rule('cumsum', Cumsum(3), IMAGES)


def test_a_rule_that_fails_is_told(cumsum):
    cumsum(lambda node, inputs, book: inputs[1])
    with pytest.raises(AssertionError, match='labelling failed in CumsumBackward0 of the root mod'):
        check_rule('cumsum', Cumsum(3), IMAGES)


def test_a_rule_is_checked_by_a_network_that_uses_it(cumsum):
    with pytest.raises(AssertionError, match="no channel rule is registered for 'cumsum'"):
        check_rule('cumsum', Cumsum(3), IMAGES)
    cumsum(right)
    with pytest.raises(AssertionError, match="does not use 'cumsum', but parameter, input, conv"):
        check_rule('cumsum', Probe(), IMAGES)


# -- importances -------------------------------------------------------------------------------


class Scores:
    """An importance that says what it is given."""

    def __init__(self, make):
        self.make = make

    def scores(self, group, model):
        return self.make(group, model)


def changes(group, model):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return np.arange(group.num_channels)


WRONG_SCORES = {
    'no array': (lambda g, m: [1.0] * g.num_channels, "group 'stem': scores are no array"),
    'one': (lambda g, m: np.zeros(1), 'stem.: 8 channels have scores of shape .1,'),
    'not finite': (lambda g, m: np.full(g.num_channels, np.nan), 'not all scores are finite'),
    'by chance': (lambda g, m: np.random.rand(g.num_channels), 'other scores when asked again'),
    'changes': (changes, 'Scores has changed stem.weight'),
}


@pytest.mark.parametrize('name', WRONG_SCORES)
def test_a_wrong_importance_does_not_pass(name):
    make, message = WRONG_SCORES[name]
    with pytest.raises(AssertionError, match=message):
        check_importance(Scores(make))


# -- pruners -----------------------------------------------------------------------------------


class Setting(RatioPruner):
    def sample_subnet(self):
        self.set_subnet(subnet := super().sample_subnet())
        return subnet


class Partial(RatioPruner):
    def sample_subnet(self):
        return dict(list(super().sample_subnet().items())[1:])


class Empty(RatioPruner):
    def sample_subnet(self):
        return {space_id: 0 * mask for space_id, mask in super().sample_subnet().items()}


class Unseeded(RatioPruner):
    count = 0

    def sample_subnet(self):
        self.count += 1
        counts = {s: 4 + self.count % 2 for s in self.channel_spaces}
        return self.subnet_of_counts(counts)


class NotTheLeast(RatioPruner):
    def set_min_channel(self):
        self.set_subnet(self.subnet_of_ratio(0.8))


class Full(StructurePruner):
    def sample_subnet(self):
        return self.channel_spaces

    def set_min_channel(self):
        self.set_max_channel()


WRONG_PRUNERS = {
    Setting: r'sample_subnet\(\) has set a subnet',
    Partial: r"a subnet has \['branch', 'fuse'\]",
    Empty: 'no valid subnet: ',
    Unseeded: 'another subnet with the same seeds',
    NotTheLeast: r'parameters, set_min_channel\(\) has',
    Full: r'set_min_channel\(\) removes nothing',
}


@pytest.mark.parametrize('pruner', WRONG_PRUNERS, ids=lambda pruner: pruner.__name__)
def test_a_wrong_pruner_does_not_pass(pruner):
    options = {} if pruner is Full else dict(ratios=[0.5, 1.0])
    with pytest.raises(AssertionError, match=WRONG_PRUNERS[pruner]):
        check_pruner(pruner(**options))


# -- the face ----------------------------------------------------------------------------------


def test_every_name_of_the_face_is_there():
    for name in dir(extend):
        assert getattr(extend, name) is not None
    with pytest.raises(AttributeError, match=r"'mmprune\.extend' has no attribute 'Nothing'"):
        extend.Nothing  # noqa: B018
