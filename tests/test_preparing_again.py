"""Preparing twice, by two pruners, through wrappers; running in two ways."""

import gc

import pytest
import torch
from pruned_network import GROUPS, IMAGE, Network, build, conv, counts, kept, prepared
from randomised import randomise, scattered
from torch import nn

from mmprune.errors import InputError
from mmprune.pruners import StructurePruner
from mmprune.registry import PRUNERS
from mmprune.trace import TraceError

# -- preparing again -------------------------------------------------------------------


def plain_state(model):
    return {k: v.clone() for k, v in model.state_dict().items() if not k.endswith('_mask')}


def test_preparing_twice_gives_the_same_and_starts_at_full_width():
    model, pruner = prepared()
    expected, state = model(IMAGE), plain_state(model)
    groups = {s: str(group) for s, group in pruner.channel_groups.items()}
    for subnet in (scattered(pruner), pruner.sample_subnet()):
        pruner.set_subnet(subnet)
        pruner.prepare_from_supernet(model, IMAGE)
        assert {s: str(group) for s, group in pruner.channel_groups.items()} == groups
        assert counts(pruner.current_subnet()) == GROUPS
        assert all((v == 1).all() for k, v in model.state_dict().items() if k.endswith('_mask'))
        assert torch.equal(model(IMAGE), expected)
        for name, value in plain_state(model).items():
            assert torch.equal(value, state[name]), name
    assert (model.stem.out_channels, model.deep.groups) == (8, 16)
    hooks = len(model._load_state_dict_pre_hooks), len(model._load_state_dict_post_hooks)
    assert hooks == (1, 1)
    pruner.set_subnet(scattered(pruner))
    assert pruner.verify_subnet(model).ok


class Viewed(nn.Module):
    """Cuts its data by a number that it stores."""

    def __init__(self):
        super().__init__()
        self.width, self.first, self.last = 12, nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        return self.last(self.first(x).flatten(2).view(len(x), self.width, *x.shape[2:]))


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_numbers_that_a_narrow_supernet_has_mended_are_full_again(execution):
    model = randomise(Viewed().double()).eval()
    pruner = build(execution=execution)
    for _ in range(3):
        pruner.prepare_from_supernet(model, IMAGE)
        assert {s: m.numel() for s, m in pruner.channel_spaces.items()} == {'first': 12}
        pruner.set_min_channel()
        assert pruner.verify_subnet(model, pruner.current_subnet()).ok
    pruner.set_max_channel()
    assert model.width == 12


def test_the_pruner_that_prepared_last_is_the_one_that_counts():
    model, first = prepared()
    first.set_min_channel()
    second = build(execution='mask')
    second.prepare_from_supernet(model, IMAGE)
    subnet = scattered(second)
    second.set_subnet(subnet)
    inside = model(IMAGE)
    for change in (first.set_max_channel, first.set_min_channel, lambda: first.set_subnet(subnet)):
        with pytest.raises(RuntimeError, match='Network has been prepared again'):
            change()
    assert kept(second.current_subnet()) == kept(subnet)
    assert torch.equal(model(IMAGE), inside)
    model.load_state_dict(model.state_dict())
    assert kept(second.current_subnet()) == kept(subnet)
    first.prepare_from_supernet(model, IMAGE)
    first.set_min_channel()
    with pytest.raises(RuntimeError, match='prepared again'):
        second.set_max_channel()


def test_a_failed_second_preparation_leaves_the_first_one_in_place():
    model, pruner = prepared()
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    expected = model(IMAGE)
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    for data in (IMAGE[:, :2], IMAGE.float()):
        for again in (pruner, build()):
            with pytest.raises(TraceError, match="in module 'stem'"):
                again.prepare_from_supernet(model, data)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == names
    assert kept(pruner.current_subnet()) == kept(subnet)
    assert torch.equal(model(IMAGE), expected)
    pruner.set_max_channel()
    model.load_state_dict(model.state_dict())
    assert counts(pruner.current_subnet()) == GROUPS
    assert pruner.verify_subnet(model).ok


def test_a_mask_name_that_is_taken_is_refused_and_nothing_is_left_behind():
    model = Network().double()
    model.wide.out_mask = 'mine'
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(InputError, match=r"'wide' has an attribute 'out_mask' of its own.*rename"):
        build().prepare_from_supernet(model, IMAGE)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(name.endswith('_mask') for name in model.state_dict())


def test_methods_before_preparing_say_what_to_do():
    pruner = build()
    for use in (pruner.sample_subnet, pruner.set_max_channel, pruner.export_subnet, pruner.report):
        with pytest.raises(RuntimeError, match=r'RatioPruner .* prepare_from_supernet\(model'):
            use()


def test_verifying_leaves_the_supernet_as_it_was():
    model, pruner = prepared()
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    model.train()
    model.stem_norm.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    for other in (None, scattered(pruner, seed=5)):
        assert pruner.verify_subnet(model, other).ok
    assert kept(pruner.current_subnet()) == kept(subnet)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(InputError, match='not the one that was prepared'):
        pruner.verify_subnet(Network())


# -- wrappers --------------------------------------------------------------------------


class Algorithm(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        self.architecture = architecture

    def forward(self, x):
        return self.architecture(x)


WRAPPERS = {
    'algorithm': Algorithm,
    'data parallel': lambda model: nn.DataParallel(model, device_ids=[]),
    'data parallel of an algorithm': lambda model: nn.DataParallel(Algorithm(model)),
    'compiled': lambda model: torch.compile(model, backend='eager'),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_names_are_relative_to_the_wrapped_network(wrapper):
    network = randomise(Network().double()).eval()
    wrapped = WRAPPERS[wrapper](network)
    pruner = build()
    pruner.prepare_from_supernet(wrapped, IMAGE)
    assert pruner.channel_spaces.keys() == GROUPS.keys()
    pruner.set_subnet(scattered(pruner))
    cfg = pruner.export_subnet()
    assert 'stem' in cfg
    for model in (wrapped, network):
        deployed = pruner.deploy_subnet(model, cfg)
        assert type(deployed) is Network
        torch.testing.assert_close(deployed(IMAGE), network(IMAGE), rtol=1e-10, atol=1e-12)
        assert pruner.verify_subnet(model).ok


def test_without_a_demo_input_an_image_is_used_and_no_random_number():
    model = nn.Sequential(conv(3, 4), nn.AdaptiveAvgPool2d(1), conv(4, 2, 1)).double()
    before = torch.get_rng_state()
    pruner = build()
    pruner.prepare_from_supernet(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert pruner.supernet.demo_input.shape == (1, 3, 224, 224)
    assert pruner.cost()['macs'] == 224 * 224 * 3 * 4 * 9 + 4 * 2


def test_one_can_write_a_pruner_of_ones_own():
    with pytest.raises(TypeError, match='abstract'):
        StructurePruner()

    @PRUNERS.register_module(force=True)
    class HalfPruner(StructurePruner):
        """Half of everything."""

        def sample_subnet(self):
            groups = self.channel_groups.items()
            return self.subnet_of_counts({s: g.num_channels // 2 for s, g in groups if g.prunable})

        def set_min_channel(self):
            self.set_subnet(self.sample_subnet())

    try:
        pruner = PRUNERS.build(dict(type='HalfPruner', execution='mask'))
        model = randomise(Network().double()).eval()
        pruner.prepare_from_supernet(model, IMAGE)
        pruner.set_min_channel()
        assert counts(pruner.current_subnet())['wide'] == 8
        assert pruner.verify_subnet(model, pruner.sample_subnet()).ok
    finally:
        PRUNERS.module_dict.pop('HalfPruner')


# -- two executions, one semantics -----------------------------------------------------


def test_both_executions_leave_the_same_supernet_after_training():
    """Also what the subnets do not have: running statistics of channels that are not there."""
    states = []
    for execution in ('slice', 'mask'):
        model, pruner = prepared(execution=execution)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-2)
        for seed in range(4):
            pruner.set_subnet(scattered(pruner, seed))
            optimizer.zero_grad()
            model(IMAGE).square().mean().backward()
            optimizer.step()
        pruner.set_max_channel()
        states.append(model.state_dict() | {'out': model.eval()(IMAGE).detach()})
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_statistics_of_channels_that_a_subnet_lacks_are_kept(execution):
    model, pruner = prepared(execution=execution)
    subnet = scattered(pruner)
    before = model.stem_norm.running_mean.clone()
    pruner.set_subnet(subnet)
    model.train()(IMAGE)
    lost = model.stem_norm.out_mask.flatten() == 0
    assert lost.any()
    assert not lost.all()
    assert torch.equal(model.stem_norm.running_mean[lost], before[lost])
    assert (model.stem_norm.running_mean[~lost] != before[~lost]).all()


@pytest.mark.parametrize('was_on', [True, False])
def test_the_garbage_collector_waits_and_is_as_it_was(was_on):
    """While a network is prepared, also if that fails."""
    seen = []

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            seen.append(gc.isenabled())
            raise ValueError('no')

    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5], _scope_='mmprune'))
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(TraceError):
            pruner.prepare_from_supernet(Fails(), torch.rand(1, 1, 4, 4))
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
    assert set(seen) == {False}
