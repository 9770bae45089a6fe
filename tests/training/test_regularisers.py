"""Gradients of penalties, against values worked out by hand, and that they reach the optimizer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hand_network import FIRST, ByHand
from iterative_config import tiny
from mmengine.optim import OptimWrapper
from torch import nn

from mmprune.commands.run import train
from mmprune.errors import InputError
from mmprune.training import GroupLasso, GrowingPenalty, ScaleL1
from mmprune.training.regularisers import Regulariser


def started(hook: Regulariser, model: nn.Module) -> SimpleNamespace:
    """A runner whose training has begun, with plain gradient descent at a rate of 1."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    runner = SimpleNamespace(
        model=model, hooks=[hook], optim_wrapper=OptimWrapper(optimizer), iter=0, cfg={}
    )
    hook.before_run(runner)
    hook.before_train(runner)
    return runner


def hook_for(kind: type[Regulariser], shape: tuple[int, ...] = (1, 1, 1, 2), **options: Any) -> Any:
    pruner = dict(type='ImportancePruner', ratio=0.5)
    return kind(pruner=options.pop('pruner', pruner), input_shape=shape, **options)


def added(hook: Regulariser, model: nn.Module) -> dict[str, list[float]]:
    """What the penalty adds to the gradient of every parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter, term in hook.terms():
            total[names[id(parameter)]] += term
    return {name: term.flatten().tolist() for name, term in total.items()}


def close(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name


class Scales(nn.Module):
    """Two norms behind a residual sum, and one whose channels are the network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.b, self.norm_b = nn.Conv2d(1, 3, 1, bias=False), nn.GroupNorm(3, 3)
        self.last, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
        with torch.no_grad():
            self.norm_a.weight.copy_(torch.tensor([0.5, -2, 0]))
            self.norm_b.weight.copy_(torch.tensor([-0.25, 0.5, 3]))
            self.norm_a.bias.fill_(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.last(self.norm_a(self.a(x)) + self.norm_b(self.b(x))))


def test_l1_on_scales() -> None:
    model = Scales().double()
    hook = hook_for(ScaleL1, (2, 1, 3, 3), weight=0.1)
    started(hook, model)
    found = added(hook, model)
    assert found['norm_a.weight'] == [0.1, -0.1, 0]
    assert found['norm_b.weight'] == [-0.1, 0.1, 0.1]
    assert not any(map(any, (v for k, v in found.items() if k[:6] not in ('norm_a', 'norm_b'))))
    assert found['norm_a.bias'] == [0, 0, 0]


# The weights of channel 0 have the squares 1 + 9 + 1 + 1 + 1, those of channel 1
# 4 + 0.0625 + 4 + 4 + 0.25.
ZERO, ONE = 13**0.5, 12.3125**0.5


@pytest.mark.parametrize(('size_weighted', 'factor'), [(False, 1), (True, 5**0.5)])
def test_group_lasso_over_coupled_layers(size_weighted: bool, factor: float) -> None:
    model = ByHand()
    hook = hook_for(GroupLasso, weight=0.1, size_weighted=size_weighted)
    started(hook, model)
    zero, one = 0.1 * factor / ZERO, 0.1 * factor / ONE
    close(
        added(hook, model),
        {
            'a.weight': [1 * zero, -2 * one],
            'b.weight': [3 * zero, 0.25 * one],
            'd.weight': [-1 * zero, 2 * one],
            'fc.weight': [1 * zero, -1 * zero, 2 * one, 0.5 * one],
        },
    )


def chain() -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    ).double()
    numbers = [[[3.0], [0.0]], [[0.0, 1.0], [4.0, 2.0]], [[2.0, 0.0]]]
    with torch.no_grad():
        for layer, weight in zip(model, numbers, strict=True):
            layer.weight.copy_(torch.tensor(weight))
    return model


def test_group_lasso_of_a_weight_between_two_groups() -> None:
    """Norms of the first two channels: 3, 0 and the columns (0, 4), (1, 2); of the last two: the
    rows (0, 1), (4, 2) and 2, 0."""
    model = chain()
    hook = hook_for(GroupLasso, (1, 1), weight=1.0)
    started(hook, model)
    first, second = 5.0, 5**0.5
    third, fourth = 5**0.5, 20**0.5
    close(
        added(hook, model),
        {
            '0.weight': [3 / first, 0],
            '1.weight': [
                0,
                1 / third + 1 / second,
                4 / fourth + 4 / first,
                2 / fourth + 2 / second,
            ],
            '2.weight': [2 / third, 0],
        },
    )


def test_group_lasso_of_a_channel_that_is_zero() -> None:
    model = chain()
    with torch.no_grad():
        for layer in model:
            layer.weight.zero_()
    hook = hook_for(GroupLasso, (1, 1), weight=1.0)
    started(hook, model)
    assert not any(map(any, added(hook, model).values()))


def test_a_growing_penalty_on_what_will_go() -> None:
    """Channel 1 has the smaller sum of weights, 6.75 against 7."""
    model = ByHand()
    hook = hook_for(GrowingPenalty, weight=0.1, interval=2, ceiling=0.25, begin=3)
    runner = started(hook, model)
    strengths = []
    for runner.iter in range(10):
        hook.before_train_iter(runner, runner.iter)
        strengths.append(hook.strength)
    assert strengths == [0, 0, 0, 0.1, 0.1, 0.2, 0.2, 0.25, 0.25, 0.25]
    close(
        added(hook, model),
        {
            'a.weight': [0, -2 * 0.25],
            'b.weight': [0, 0.25 * 0.25],
            'd.weight': [0, 2 * 0.25],
            'fc.weight': [0, 0, 2 * 0.25, 0.5 * 0.25],
        },
    )


def test_a_growing_penalty_counts_a_weight_once() -> None:
    """Channel 1 of the first layer, and channel 0 of the second, go."""
    model = chain()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[0.5, 1]]))
    hook = hook_for(
        GrowingPenalty,
        (1, 1),
        weight=1.0,
        pruner=dict(type='ImportancePruner', ratio=0.5, scope='local'),
    )
    runner = started(hook, model)
    hook.before_train_iter(runner, 0)
    close(
        added(hook, model),
        {'0.weight': [0, 0], '1.weight': [0, 1, 0, 2], '2.weight': [0.5, 0]},
    )


def test_what_goes_is_chosen_once() -> None:
    model = ByHand()
    hook = hook_for(GrowingPenalty, weight=0.1)
    runner = started(hook, model)
    hook.before_train_iter(runner, 0)
    with torch.no_grad():
        model.a.weight[0] = 0
    hook.before_train_iter(runner, 1)
    assert added(hook, model)['b.weight'][0] == 0
    assert added(hook, model)['b.weight'][1] != 0


# -- steps -------------------------------------------------------------------------------


def test_the_penalty_is_part_of_every_step_once() -> None:
    """Two backward passes per step, a clipped gradient, and a scale of 1/2 on each loss."""
    model, plain = ByHand(), ByHand()
    hook = hook_for(GroupLasso, weight=0.1)
    runner = started(hook, model)
    terms = added(hook, model)
    for network, optimizer in (
        (model, runner.optim_wrapper.optimizer),
        (plain, torch.optim.SGD(plain.parameters(), lr=1.0)),
    ):
        wrapper = OptimWrapper(optimizer, accumulative_counts=2, clip_grad=dict(max_norm=1.0))
        for _ in range(2):
            wrapper.update_params(network(FIRST).sum())
    for name, parameter in plain.named_parameters():
        expected = parameter.detach().flatten() - torch.tensor(terms[name], dtype=torch.float64)
        torch.testing.assert_close(model.get_parameter(name).detach().flatten(), expected)


def test_the_optimizer_is_left_alone_afterwards() -> None:
    model = ByHand()
    hook = hook_for(GroupLasso, weight=0.1)
    runner = started(hook, model)
    assert len(runner.optim_wrapper.optimizer._optimizer_step_pre_hooks) == 1
    hook.after_train(runner)
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize('weight', [0.0, 0.1])
def test_frozen_parameters_and_a_weight_of_zero(weight: float) -> None:
    model = ByHand()
    model.a.weight.requires_grad_(False)
    hook = hook_for(GroupLasso, weight=weight)
    runner = started(hook, model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    runner.optim_wrapper.update_params(0 * model(FIRST).sum())
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed == (['b.weight', 'd.weight', 'fc.weight'] if weight else [])


def test_penalties_share_the_pruner_of_another_hook_and_end_with_it(tmp_path: Path) -> None:
    """By config: all three with IterativePruning, deployed at epoch 1; and resumed after that."""
    cfg = tiny(begin=1, end=1)
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'train_dataloader.dataset.indices': 64})
    kinds = {
        'ScaleL1': dict(weight=1e-3),
        'GroupLasso': dict(weight=1e-3),
        'GrowingPenalty': dict(weight=0.1, interval=1),
    }
    cfg.custom_hooks += [dict(type=f'mmprune.{kind}', **options) for kind, options in kinds.items()]
    runner = train(cfg, tmp_path)
    hooks = {type(h).__name__: h for h in runner.hooks if isinstance(h, Regulariser)}
    assert hooks.keys() == kinds.keys()
    assert len({id(hook.pruner) for hook in hooks.values()}) == 1
    assert hooks['GrowingPenalty'].strength == pytest.approx(0.2)  # two steps in the first epoch
    assert not any(hook.is_active for hook in hooks.values())
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    cfg.train_cfg.max_epochs = 3
    again = train(cfg, tmp_path, resume=tmp_path / 'epoch_2.pth')
    assert again.epoch == 3
    assert all(hook.found is None for hook in again.hooks if isinstance(hook, Regulariser))


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        (ScaleL1, dict(weight=-1), 'ScaleL1: weight must be 0 or more, not -1'),
        (GroupLasso, dict(weight=float('nan')), 'GroupLasso: weight must be 0 or more, not nan'),
        (GrowingPenalty, dict(interval=0), 'needs interval >= 1, .* got interval=0'),
        (GrowingPenalty, dict(ceiling=-1.0), 'ceiling=-1.0'),
        (GrowingPenalty, dict(begin=-1), 'begin=-1'),
    ],
)
def test_options_that_make_no_sense(
    kind: type[Regulariser], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kind(**options)


def test_a_penalty_without_a_pruner() -> None:
    with pytest.raises(InputError, match='GroupLasso: there is no pruner'):
        started(GroupLasso(), ByHand())


def test_a_growing_penalty_needs_a_target() -> None:
    hook = hook_for(GrowingPenalty, pruner=dict(type='RatioPruner', ratios=[0.5]))
    runner = started(hook, ByHand())
    with pytest.raises(InputError, match='GrowingPenalty needs an ImportancePruner, not a Ratio'):
        hook.before_train_iter(runner, 0)


def test_two_hooks_with_a_pruner_each() -> None:
    first, second = (hook_for(kind) for kind in (GroupLasso, ScaleL1))
    runner = started(first, ByHand())
    runner.hooks.append(second)
    with pytest.raises(InputError, match='ScaleL1 and GroupLasso have a pruner each'):
        second.before_run(runner)
