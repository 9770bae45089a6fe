"""Chains trained in turns with a supernet, by config: what is learned, resumed, refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from spoiled_states import assert_spoiled_states_are_refused
from two_processes import in_two_processes

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.export_subnet import export_subnet
from mmprune.commands.run import train
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.training import DMCP

BUDGET = 0.5


def tiny(**hook: Any) -> Config:
    """The tiny supernet of the digits with chains, eight iterations."""
    cfg = load_config('autoslim_resnet-tiny_1xb32_digits.py')
    cfg.model.pruner = dict(
        type='MarkovPruner', budget=dict(macs=BUDGET), except_start_keys=['head.fc']
    )
    cfg.custom_hooks = [dict(type='mmprune.DMCP', begin=0, **hook)]
    cfg.default_hooks.checkpoint.interval = 1
    cfg.pop('search_cfg')
    cfg.log_level = 'WARNING'
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp('dmcp')
    cfg = tiny(optimizer=dict(type='Adam', lr=0.5))
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    return train(cfg, folder), folder


def test_the_expected_cost_moves_to_the_budget_and_the_subnet_is_within(
    trained: tuple[Any, Path],
) -> None:
    runner, folder = trained
    pruner = runner.model.pruner
    full = pruner.limits.full['macs']
    hook = next(hook for hook in runner.hooks if isinstance(hook, DMCP))
    with torch.no_grad():
        assert abs(pruner.expected_cost()['macs'] / full - BUDGET) < 0.06
    assert hook.first['macs'] / full < BUDGET - 0.06
    assert 0.9 * BUDGET < pruner.cost()['macs'] / full <= BUDGET
    kept = load_channel_cfg(folder / 'channel_cfg.yaml')
    assert kept == load_channel_cfg(export_subnet(tiny(), folder / 'epoch_2.pth'))


def test_the_tools_deploy_what_was_learned(trained: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = trained
    files = deploy_subnet(
        tiny(), folder / 'epoch_2.pth', folder / 'channel_cfg.yaml', tmp_path / 'small'
    )
    assert files.verified.ok
    assert 'DMCP' not in files.config.read_text()


def test_a_resumed_training_ends_like_one_that_ran_through(
    trained: tuple[Any, Path], tmp_path: Path
) -> None:
    _, folder = trained
    shutil.copy(folder / 'epoch_1.pth', tmp_path / 'start.pth')
    cfg = tiny(optimizer=dict(type='Adam', lr=0.5))
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    train(cfg, tmp_path, resume=tmp_path / 'start.pth')
    expected, found = (read_checkpoint(path / 'epoch_2.pth') for path in (folder, tmp_path))
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'mmprune_dmcp'):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    assert found['mmprune_dmcp']['optimizer']['state'][0]['step'] == 8
    assert_spoiled_states_are_refused(lambda: cfg, tmp_path / 'start.pth', 'mmprune_dmcp')


def test_the_norms_know_nothing_of_it(trained: tuple[Any, Path], tmp_path: Path) -> None:
    """A step of the chains changes neither weights nor statistics."""
    runner, _ = trained
    hook = next(hook for hook in runner.hooks if isinstance(hook, DMCP))
    batch = next(iter(runner.train_dataloader))
    pruner, model = hook.chains, runner.model
    pruner.set_max_channel()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss, gradient = hook._look(runner, batch)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, msg=name)
    assert loss.isfinite()
    assert (gradient[pruner.logits.isfinite()] != 0).any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_two_processes_learn_the_same_chains(tmp_path: Path) -> None:
    in_two_processes(Path(__file__).with_name('dmcp_worker.py'), str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=name)


# -- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(begin=0.5, end=0.4), 'got begin=0.5, end=0.4'),
        (dict(interval=0), 'interval=0'),
        (dict(weight=0), 'weight=0'),
        (dict(slack=1), 'slack=1'),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DMCP(**options)


def test_a_model_without_chains(tmp_path: Path) -> None:
    cfg = load_config('autoslim_resnet-tiny_1xb32_digits.py')
    cfg.custom_hooks = [dict(type='mmprune.DMCP')]
    with pytest.raises(InputError, match=r'MarkovPruner.*not a AutoSlim with a RatioPruner'):
        train(cfg, tmp_path)
