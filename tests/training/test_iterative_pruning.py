"""Pruning while training, by config: the schedule, the small network, resuming, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from iterative_config import PRUNER, tiny
from mmengine.runner import Runner

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import build_runner, evaluate, train
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.importance import GroupFisherImportance
from mmprune.training import IterativePruning, pruner_hook


def hook_of(runner: Runner) -> IterativePruning:
    return next(hook for hook in runner.hooks if isinstance(hook, IterativePruning))


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Path]:
    """A training in which the model is deployed at epoch 2, with an average of its weights."""
    folder = tmp_path_factory.mktemp('iterative')
    cfg = tiny()
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    return train(cfg, folder), folder


def test_the_model_becomes_the_small_network(trained: tuple[Runner, Path]) -> None:
    runner, folder = trained
    assert hook_of(runner).is_deployed
    kept = load_channel_cfg(folder / 'channel_cfg.yaml')
    assert kept['backbone.layer1.0.conv1']['out_channels'] < 8
    assert not any('mask' in name for name in runner.model.state_dict())
    optimizer = runner.optim_wrapper.optimizer
    held = [p for group in optimizer.param_groups for p in group['params']]
    assert [id(p) for p in held] == [id(p) for p in runner.model.parameters()]
    assert all(optimizer.state[p]['momentum_buffer'].shape == p.shape for p in held)


def test_checkpoints_of_both_times_are_tested_by_both_configs(
    trained: tuple[Runner, Path], tmp_path: Path
) -> None:
    _, folder = trained
    small, large = folder / 'epoch_4.pth', folder / 'epoch_1.pth'
    sizes = [read_checkpoint(f)['state_dict'] for f in (large, small)]
    name = 'backbone.layer1.0.conv1.weight'
    assert sizes[0][name].shape[0] == 8 > sizes[1][name].shape[0]
    training_config = folder / tiny().filename.rpartition('/')[2]
    assert training_config.is_file()
    deployed = evaluate(folder / 'deployed.py', small, tmp_path / 'a')
    assert evaluate(training_config, small, tmp_path / 'b') == deployed
    assert 0 <= evaluate(training_config, large, tmp_path / 'c')['accuracy/top1'] <= 100
    with pytest.raises(InputError, match=r'epoch_1\.pth: does not fit the model'):
        evaluate(folder / 'deployed.py', large, tmp_path / 'd')


def test_the_deployed_config_has_no_hooks_of_pruning(trained: tuple[Runner, Path]) -> None:
    _, folder = trained
    cfg = load_config(folder / 'deployed.py')
    assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook']
    assert cfg.model.type == 'mmprune.DeployedModel'
    assert cfg.load_from is None
    assert 'iterative_resnet-small_1xb64_digits.py' in (folder / 'deployed.py').read_text()


@pytest.mark.parametrize('epoch', [2, 3])
def test_a_resumed_training_ends_like_one_that_ran_through(
    trained: tuple[Runner, Path], tmp_path: Path, epoch: int
) -> None:
    """Resumed right before the deployment, and after it, with momentum and averages."""
    _, folder = trained
    shutil.copy(folder / f'epoch_{epoch}.pth', tmp_path / 'start.pth')
    cfg = tiny()
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    resumed = train(cfg, tmp_path, resume=tmp_path / 'start.pth')
    assert hook_of(resumed).is_deployed
    expected, found = (read_checkpoint(path / 'epoch_4.pth') for path in (folder, tmp_path))
    for key in ('state_dict', 'ema_state_dict'):
        assert found[key].keys() == expected[key].keys()
        for name, tensor in expected[key].items():
            torch.testing.assert_close(found[key][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_a_runner_of_mmengine_resumes_too(trained: tuple[Runner, Path], tmp_path: Path) -> None:
    """Without mmprune's train function the model is deployed while the checkpoint is loaded."""
    _, folder = trained
    cfg = tiny()
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.merge_from_dict({'work_dir': str(tmp_path), 'load_from': str(folder / 'epoch_3.pth')})
    cfg.resume = True
    runner = build_runner(cfg)
    runner.train()
    assert hook_of(runner).is_deployed
    expected, found = (read_checkpoint(path / 'epoch_4.pth') for path in (folder, tmp_path))
    for key in ('state_dict', 'ema_state_dict'):
        for name, tensor in expected[key].items():
            torch.testing.assert_close(found[key][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[IterativePruning, dict[int, float]]]:
    """Train; return the hook, and the share of the MACs that was left after every step."""
    costs: dict[int, float] = {}
    of_hook = IterativePruning._set

    def record(self: IterativePruning, runner: Runner, subnet: Any) -> None:
        of_hook(self, runner, subnet)
        now = runner.epoch if self.by_epoch else runner.iter
        full = self.pruner.cost(self.pruner.full_subnet())
        costs[now] = self.pruner.cost()['macs'] / full['macs']

    def run(**hook: Any) -> tuple[IterativePruning, dict[int, float]]:
        monkeypatch.setattr(IterativePruning, '_set', record)
        return hook_of(train(tiny(**hook), tmp_path)), costs

    return run


def test_the_schedule(run: Callable[..., Any]) -> None:
    """Twelve iterations: nothing at 1 or before, then every second one until 9."""
    hook, costs = run(by_epoch=False, begin=1, end=9, interval=2, schedule='linear')
    expected = {3: 1 / 4, 5: 1 / 2, 7: 3 / 4, 9: 1}
    assert costs.keys() == expected.keys()
    for now, share in expected.items():
        limit = 1 - share / 2
        assert limit * 0.99 <= costs[now] <= limit
    assert hook.is_deployed


def test_schedules() -> None:
    """Zhu and Gupta's cubic one leaves (1 - time)^3 of the way."""
    linear = IterativePruning(begin=2, end=6, schedule='linear')
    assert [linear.progress(now) for now in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    cubic = IterativePruning(begin=2, end=6)
    expected = [0, 0, 0, 37 / 64, 7 / 8, 63 / 64, 1, 1]
    assert [cubic.progress(now) for now in range(8)] == expected
    assert [IterativePruning(begin=3, end=3).progress(now) for now in (2, 3)] == [0, 1]


def test_one_shot_while_training_without_deploying(run: Callable[..., Any], tmp_path: Path) -> None:
    hook, costs = run(begin=1, end=1, deploy=False)
    assert list(costs) == [1]
    assert not hook.is_deployed
    assert not (tmp_path / 'deployed.py').exists()
    state = read_checkpoint(tmp_path / 'epoch_4.pth')['state_dict']
    mask = state['backbone.layer1.0.conv1.out_mask']
    assert 0 < mask.sum() < mask.numel()
    assert state['backbone.layer1.0.conv1.weight'].shape[0] == 8


def test_importance_from_training_images(run: Callable[..., Any]) -> None:
    pruner = dict(PRUNER, importance=dict(type='TaylorImportance'))
    images = dict(num_batches=2, batch_size=16)
    hook, costs = run(pruner=pruner, begin=0, end=2, collect=images)
    assert list(costs) == [1, 2]
    assert hook.target.importance.num_batches == 2
    assert hook.is_deployed


def test_group_fisher_goes_by_the_training_steps_themselves(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No images are read for it; every removal goes by the steps since the one before."""
    seen = []
    reset = GroupFisherImportance.reset

    def count(self: GroupFisherImportance) -> None:
        seen.append(getattr(self, 'num_batches', 0))
        reset(self)

    monkeypatch.setattr(GroupFisherImportance, 'reset', count)
    monkeypatch.setattr(pruner_hook, 'calibration_batches', lambda *_: pytest.fail('images read'))
    pruner = dict(PRUNER, scope='global', importance='GroupFisher', score_per='macs')
    steps = dict(by_epoch=False, begin=1, end=9, interval=2, schedule='linear')
    hook, costs = run(pruner=pruner, listen=True, **steps)
    assert list(costs) == [3, 5, 7, 9]
    assert seen == [0, 3, 2, 2, 2]
    assert hook.is_deployed
    assert 0.48 < costs[9] <= 0.5


FISHER = dict(PRUNER, scope='global', importance='GroupFisher', score_per='macs')


def test_a_few_channels_go_at_every_step_until_the_budget_is_met(run: Callable[..., Any]) -> None:
    """As in Group Fisher's paper; the network is small as soon as enough is gone."""
    steps = dict(by_epoch=False, begin=0, end=11, interval=2, channels=4)
    hook, costs = run(pruner=dict(FISHER, budget=dict(macs=0.95)), listen=True, **steps)
    assert hook.is_deployed
    assert list(costs) == list(range(2, 2 * len(costs) + 1, 2))
    assert 2 <= len(costs) < 5
    assert 0.94 < costs[max(costs)] <= 0.95 < costs[2] < 1


def test_what_was_heard_is_not_forgotten_when_training_is_resumed(tmp_path: Path) -> None:
    """The checkpoint of epoch 1 is between the removals of iterations 2 and 4."""
    steps = dict(by_epoch=False, begin=0, end=11, interval=2, channels=2)
    cfg = tiny(pruner=FISHER, listen=True, **steps)
    train(cfg, tmp_path / 'all')
    (tmp_path / 'rest').mkdir()
    shutil.copy(tmp_path / 'all' / 'epoch_1.pth', tmp_path / 'rest' / 'start.pth')
    resumed = train(cfg, tmp_path / 'rest', resume=tmp_path / 'rest' / 'start.pth')
    assert hook_of(resumed).is_deployed
    both = [read_checkpoint(tmp_path / name / 'epoch_4.pth') for name in ('all', 'rest')]
    expected, found = (each['state_dict'] for each in both)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_only_some_importances_can_listen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='TaylorImportance cannot listen to training steps'):
        train(tiny(pruner=dict(PRUNER, importance='Taylor'), listen=True), tmp_path)


# -- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(begin=3, end=2), 'needs 0 <= begin <= end and interval >= 1, got begin=3, end=2'),
        (dict(begin=-1, end=2), 'got begin=-1'),
        (dict(interval=0), 'interval=0'),
        (dict(channels=0), 'the number that goes at every step, 1 or more, .* channels=0'),
        (dict(channels=1, regrow=True), 'none comes back: found channels=1, regrow=True'),
        (dict(schedule='sudden'), "schedule must be one of 'linear', 'cubic', not 'sudden'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IterativePruning(**options)


def test_an_end_that_is_never_reached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'end=4, but the 4 epochs of training are counted 0 to 3'):
        train(tiny(end=4), tmp_path)
    assert not list(tmp_path.glob('*.pth'))


def test_a_training_that_ends_before_the_target_says_so(tmp_path: Path, capfd: Any) -> None:
    cfg = tiny(end=3)
    stop = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=0, min_delta=100)
    cfg.custom_hooks.append(stop)
    cfg.train_cfg.val_interval = 1
    assert not hook_of(train(cfg, tmp_path)).is_deployed
    assert 'training ended before end=3' in capfd.readouterr().out
    assert not (tmp_path / 'deployed.py').exists()


def test_a_pruner_without_a_target(tmp_path: Path) -> None:
    pruner = dict(type='RatioPruner', ratios=[0.5])
    with pytest.raises(InputError, match='needs an ImportancePruner, not a RatioPruner'):
        train(tiny(pruner=pruner), tmp_path)


def test_no_pruner(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'IterativePruning: there is no pruner\. Give it one'):
        train(tiny(pruner=None), tmp_path)


def test_an_autoslim_sets_its_widths_itself(tmp_path: Path) -> None:
    cfg = load_config('autoslim_resnet-tiny_1xb32_digits.py')
    cfg.custom_hooks = [dict(type='mmprune.IterativePruning')]
    with pytest.raises(InputError, match='IterativePruning cannot prune an AutoSlim'):
        train(cfg, tmp_path)


def test_a_budget_that_cannot_be_met_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='the budget cannot be met'):
        train(tiny(pruner=dict(PRUNER, budget=dict(params=100))), tmp_path)
