"""A training goes on with the deployed network as it would have gone on with the supernet."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper, OptimWrapperDict
from pruned_network import IMAGE, Network
from randomised import randomise, scattered
from torch import nn

from mmprune.deploy import ChannelCfg, deploy_in_place
from mmprune.errors import InputError
from mmprune.registry import PRUNERS
from mmprune.training.carry_over import deploy_in_training, optimizers_of, write_masks

OPTIMIZERS = {
    'SGD': lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    'Nesterov': lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    'AdamW': lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-2, amsgrad=True),
    'RMSprop': lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
}


class Trained(nn.Module):
    """Something around the network, as an algorithm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = randomise(Network().double())
        self.pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
        self.pruner.prepare_from_supernet(self.architecture, IMAGE)


def training(kind: str = 'SGD', **ema: Any) -> SimpleNamespace:
    """What of a runner is needed: a model in training, its optimizer, an EMA hook."""
    model = Trained().train()
    wrapper = OptimWrapper(OPTIMIZERS[kind](model.parameters()))
    hook = EMAHook(momentum=0.3, **ema)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, hooks=[hook], iter=0, cfg={})
    hook.before_run(runner)
    return runner


def step(runner: SimpleNamespace, count: int = 1) -> None:
    for _ in range(count):
        generator = torch.Generator().manual_seed(runner.iter)
        images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        loss = runner.model.architecture(images).square().mean()
        runner.optim_wrapper.update_params(loss)
        runner.hooks[0].after_train_iter(runner, runner.iter)
        runner.iter += 1


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.state_dict())


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize('update_buffers', [False, True])
@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_steps_of_the_deployed_network_are_those_of_the_supernet(
    kind: str, update_buffers: bool
) -> None:
    runners = [training(kind, update_buffers=update_buffers) for _ in range(2)]
    for runner in runners:
        step(runner, 3)
        pruner = runner.model.pruner
        pruner.set_subnet(scattered(pruner, seed=1))
        masks = {key: b.tensor for b in pruner.supernet.masks.buffers for key in b.keys}
        write_masks(runner.hooks[0].ema_model, masks)
        step(runner, 3)
    supernet, small = runners
    channel_cfg = small.model.pruner.export_subnet()
    deploy_in_training(small, channel_cfg)
    for _ in range(3):
        pruner = supernet.model.pruner
        expected = pruner.deploy_subnet(supernet.model, channel_cfg)
        assert_same(tensors(small.model.architecture), tensors(expected))
        average = pruner.deploy_subnet(supernet.hooks[0].ema_model.module, channel_cfg)
        assert_same(tensors(small.hooks[0].ema_model.module.architecture), tensors(average))
        step(supernet)
        step(small)


def test_the_optimizer_holds_only_what_lives() -> None:
    runner = training('AdamW')
    step(runner, 2)
    model, optimizer = runner.model, runner.optim_wrapper.optimizer
    model.pruner.set_min_channel()
    before = {name: p.clone() for name, p in model.named_parameters()}
    modules = dict(model.named_modules())
    deploy_in_training(runner, model.pruner.export_subnet())
    live = dict(model.named_parameters())
    held = [p for group in optimizer.param_groups for p in group['params']]
    assert [id(p) for p in held] == [id(p) for p in live.values()]
    assert {id(p) for p in optimizer.state} == {id(p) for p in held}
    for parameter, state in optimizer.state.items():
        assert state['exp_avg'].shape == parameter.shape
        assert state['exp_avg'].untyped_storage().nbytes() == 8 * parameter.numel()
        assert parameter.untyped_storage().nbytes() == 8 * parameter.numel()
        assert state['step'] == 2
    assert sum(p.numel() for p in held) < 0.4 * sum(p.numel() for p in before.values())
    # The same modules, plain now.
    assert all(module is modules[name] for name, module in model.named_modules())
    assert not any('mask' in name for name in model.state_dict())
    assert not any('forward' in vars(m) for m in model.modules())
    assert model.architecture.stem.out_channels == live['architecture.stem.weight'].shape[0]
    assert torch.equal(live['architecture.head.bias'], before['architecture.head.bias'])
    # What loses nothing stays the object that it was.
    averaged = runner.hooks[0].ema_model
    assert averaged.avg_parameters.keys() == live.keys()
    assert all(averaged.avg_parameters[n] is p for n, p in averaged.module.named_parameters())
    assert all(averaged.avg_parameters[n].shape == p.shape for n, p in live.items())
    assert not any(p.requires_grad for p in averaged.parameters())
    step(runner)


def test_gradients_that_wait_for_their_step_are_carried_over() -> None:
    """Gradient accumulation, interrupted by deploying."""
    runners = [training() for _ in range(2)]
    for number, runner in enumerate(runners):
        runner.optim_wrapper = OptimWrapper(runner.optim_wrapper.optimizer, accumulative_counts=2)
        runner.model.pruner.set_min_channel()
        step(runner)
        assert runner.model.architecture.stem.weight.grad is not None
        channel_cfg = runner.model.pruner.export_subnet()
        if number:
            deploy_in_training(runner, channel_cfg)
        step(runner)
    expected = runners[0].model.pruner.deploy_subnet(runners[0].model, channel_cfg)
    assert_same(tensors(runners[1].model.architecture), tensors(expected))


def test_several_optimizers_and_groups_with_settings() -> None:
    runner = training()
    network = runner.model.architecture
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    first = [p for norm in norms for p in norm.parameters()]
    others = [p for p in network.parameters() if all(p is not q for q in first)]
    grouped = torch.optim.SGD(
        [dict(params=first, weight_decay=0.0, lr=0.3), dict(params=others[:4])], lr=0.1
    )
    second = torch.optim.Adam(others[4:], lr=0.2)
    runner.optim_wrapper = OptimWrapperDict(a=OptimWrapper(grouped), b=OptimWrapper(second))
    assert optimizers_of(runner.optim_wrapper) == [grouped, second]
    runner.model.pruner.set_min_channel()
    deploy_in_training(runner, runner.model.pruner.export_subnet())
    live = {id(p) for p in network.parameters()}
    held = [p for o in (grouped, second) for g in o.param_groups for p in g['params']]
    assert {id(p) for p in held} == live
    assert [g['lr'] for g in grouped.param_groups] == [0.3, 0.1]
    assert [len(g['params']) for g in grouped.param_groups] == [len(first), 4]


def test_frozen_parameters_stay_frozen() -> None:
    runner = training()
    runner.model.architecture.stem.weight.requires_grad_(False)
    runner.model.pruner.set_min_channel()
    deploy_in_training(runner, runner.model.pruner.export_subnet())
    flags = {n: p.requires_grad for n, p in runner.model.architecture.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ['stem.weight']


class Factored(torch.optim.SGD):
    """Keeps a number per row, as optimizers with factored states do."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for p in group['params']:
                if p.dim() > 1:
                    self.state[p]['row'] = p.detach().flatten(1).mean(1)


def test_a_state_that_cannot_be_cut_is_refused_before_anything_changes() -> None:
    runner = training()
    runner.optim_wrapper = OptimWrapper(Factored(runner.model.parameters(), lr=0.1))
    step(runner)
    runner.model.pruner.set_min_channel()
    before = {
        name: (id(t), t.clone()) for name, t in runner.model.state_dict(keep_vars=True).items()
    }
    held = [id(p) for p in runner.optim_wrapper.optimizer.param_groups[0]['params']]
    with pytest.raises(
        InputError, match=r"Factored keeps 'row' of shape \(8,\) for a parameter of shape \(8, 3,"
    ):
        deploy_in_training(runner, runner.model.pruner.export_subnet())
    after = runner.model.state_dict(keep_vars=True)
    assert all(id(after[n]) == i and torch.equal(after[n], t) for n, (i, t) in before.items())
    assert held == [id(p) for p in runner.optim_wrapper.optimizer.param_groups[0]['params']]


def test_a_config_that_does_not_fit_changes_nothing() -> None:
    runner = training()
    channel_cfg = copy.deepcopy(runner.model.pruner.export_subnet())
    channel_cfg['stem']['raw_out_channels'] = channel_cfg['stem']['out_channels'] = 9
    before = {name: id(p) for name, p in runner.model.named_parameters()}
    with pytest.raises(InputError, match="layer 'stem': raw_out_channels is 9"):
        deploy_in_training(runner, channel_cfg)
    assert before == {name: id(p) for name, p in runner.model.named_parameters()}
    assert runner.model.pruner.supernet.is_current


class Tied(nn.Module):
    """A weight with two owners, a layer that is called twice, and a hook of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
        self.other = nn.Conv2d(6, 6, 1)
        self.other.weight = self.same.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.other(self.same(self.first(x)).relu()).relu()
        return self.last(self.same(x).mean((2, 3)))


def test_tied_weights_stay_tied_and_hooks_stay() -> None:
    model = randomise(Tied().double())
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, IMAGE)
    pruner.set_min_channel()
    channel_cfg = pruner.export_subnet()
    expected = pruner.deploy_subnet(model, channel_cfg)
    seen: list[nn.Module] = []
    model.same.register_forward_hook(lambda module, *_: seen.append(module))
    replaced = deploy_in_place(model, ChannelCfg(channel_cfg))
    assert model.same.weight is model.other.weight
    assert [tuple(entry.new.shape) for entry in replaced if entry.new is model.same.weight] == [
        (3, 3, 1, 1)
    ]
    torch.testing.assert_close(model(IMAGE), expected(IMAGE), rtol=1e-12, atol=1e-14)
    assert seen == [model.same, model.same]
    assert not pruner.supernet.is_current
    with pytest.raises(RuntimeError, match='has been prepared again since'):
        pruner.set_max_channel()


def test_an_average_of_a_plain_copy_is_cut_too() -> None:
    """An average that was taken before the model was prepared."""
    network = randomise(Network().double())
    average = ExponentialMovingAverage(network, momentum=0.1)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(network, IMAGE)
    pruner.set_min_channel()
    runner = SimpleNamespace(
        model=network, optim_wrapper=None, hooks=[SimpleNamespace(ema_model=average)]
    )
    channel_cfg = pruner.export_subnet()
    deploy_in_training(runner, channel_cfg)
    assert tensors(average.module).keys() == tensors(network).keys()
    assert all(t.shape == tensors(network)[n].shape for n, t in tensors(average.module).items())
    average.update_parameters(network)
