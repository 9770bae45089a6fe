"""AutoSlim that retrains several given subnets jointly, each with norms of its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper

from mmprune.checkpoint import load_weights
from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.export_subnet import export_subnet
from mmprune.commands.run import evaluate, train
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.errors import InputError
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_model, load_network
from mmprune.testing import randomise

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
PRUNER = dict(
    type='RatioPruner', ratios=[0.25, 0.5, 1.0], importance=dict(type='RandomImportance', seed=0)
)
Build = Callable[..., AutoSlim]
Batch = Callable[..., dict[str, Any]]


@pytest.fixture
def files(build: Build, tmp_path: Path) -> list[str]:
    """The channel configs of three random subnets."""
    return channel_cfgs(build(pruner=PRUNER), tmp_path)


def channel_cfgs(supernet: AutoSlim, folder: Path) -> list[str]:
    paths = []
    for number in range(3):
        supernet.pruner.set_subnet(supernet.pruner.sample_subnet())
        paths.append(folder / f'subnet_{number}.yaml')
        save_channel_cfg(supernet.pruner.export_subnet(), paths[-1])
    return [str(path) for path in paths]


def joint(build: Build, files: list[str], **settings: Any) -> AutoSlim:
    """An algorithm in training mode, all of whose numbers are random."""
    model = build(retraining=True, channel_cfg=files, pruner=PRUNER, **settings)
    for seed, module in enumerate([model.architecture, *model.switchable_norms.others]):
        randomise(module, seed)
    return model.train()


def statistics_of(model: AutoSlim, number: int) -> dict[str, torch.Tensor]:
    model.switch_subnet(number)
    network = model.architecture
    return {k: v.clone() for k, v in network.state_dict().items() if 'running' in k}


def test_a_step_adds_up_the_gradients_of_all_subnets(
    build: Build, batch: Batch, files: list[str]
) -> None:
    model, by_hand = joint(build, files), joint(build, files)
    by_hand.load_state_dict(model.state_dict())
    data = by_hand.data_preprocessor(batch(16, seed=0), True)
    losses = []
    for number in range(3):
        by_hand.switch_subnet(number)
        losses.append(by_hand.architecture(**data, mode='loss')['loss'])
        losses[-1].backward()
    by_hand.switch_subnet(0)
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    sgd.step()

    logs = model.train_step(
        batch(16, seed=0), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    )

    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())
    assert [n for n in logs if n.endswith('.loss')] == [f'subnet{i}.loss' for i in range(3)]
    torch.testing.assert_close(logs['loss'], torch.stack(losses).sum().detach())
    # Every subnet's statistics have seen the batch, each its own.
    first, second = statistics_of(model, 0), statistics_of(model, 1)
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_subnets_begin_with_the_norms_of_what_is_loaded(
    build: Build, files: list[str], untrained: Path, tmp_path: Path
) -> None:
    started = build(retraining=True, channel_cfg=files, pruner=PRUNER)
    for number in range(3):
        assert (statistics_of(started, number)['backbone.bn1.running_var'] == 1).all()
    supernet = randomise(build(pruner=PRUNER), 5)
    model = joint(build, files)
    model.switch_subnet(1)
    model.load_state_dict(supernet.state_dict())
    supernets_own = {k: v for k, v in supernet.architecture.state_dict().items() if 'running' in k}
    for number in (0, 1, 2):
        torch.testing.assert_close(statistics_of(model, number), supernets_own)
    # What is set is what the norms belong to.
    model.load_state_dict(supernet.state_dict())
    expected = model.subnets[0]
    torch.testing.assert_close(model.pruner.current_subnet(), expected)
    # A checkpoint of other subnets is none of these.
    fewer = joint(build, files[:2])
    torch.save({'state_dict': fewer.state_dict()}, tmp_path / 'fewer.pth')
    with pytest.raises(InputError, match=r'switchable_norms\.2\S+: missing in the file'):
        load_weights(model, tmp_path / 'fewer.pth')


def test_optimizers_treat_all_norms_alike(build: Build, files: list[str]) -> None:
    model = joint(build, files)
    model.switch_subnet(2)
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01),
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'backbone.bn1': dict(lr_mult=0.5)}),
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    settings = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert len(settings) == len(list(model.parameters()))
    model.switch_subnet(0)
    for norms in (model.architecture, *model.switchable_norms.others):
        assert settings[id(norms.backbone.bn1.weight)] == (0.05, 0.01)
        assert settings[
            id(
                norms.backbone.layer1[0].bn1.weight
                if norms is model.architecture
                else norms.get_submodule('backbone.layer1.0.bn1').weight
            )
        ] == (0.1, 0.0)
    # In this order, whatever was set: a checkpoint's optimizer counts parameters.
    first = [p for group in groups for p in group['params']]
    again = build_optim_wrapper(model, cfg).optimizer.param_groups
    assert [id(p) for group in again for p in group['params']] == [*map(id, first)]


def test_trained_resumed_tested_and_deployed_by_a_config(
    build: Build, batch: Batch, files: list[str], untrained: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        'model.retraining': True,
        'model.channel_cfg': files,
        'model.pruner': PRUNER,
        'val_cfg.type': 'mmprune.SubnetsValLoop',
        'test_cfg.type': 'mmprune.SubnetsTestLoop',
        'train_cfg.max_epochs': 2,
        'default_hooks.checkpoint.interval': 1,
        'optim_wrapper.optimizer.momentum': 0.9,
        'log_level': 'ERROR',
    }
    cfg = load_config(CONFIG, settings)
    train(CONFIG, tmp_path / 'at_once', cfg_options={**settings, 'load_from': str(untrained)})
    train(CONFIG, tmp_path / 'resumed', tmp_path / 'at_once/epoch_1.pth', cfg_options=settings)
    states = [
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)['state_dict']
        for name in ('at_once', 'resumed')
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)

    checkpoint = tmp_path / 'at_once/epoch_2.pth'
    metrics = evaluate(CONFIG, checkpoint, tmp_path / 'test', cfg_options=settings)
    assert sorted(metrics) == [f'subnet{number}/accuracy/top1' for number in range(3)]
    algorithm = build_model(cfg)
    load_weights(algorithm, checkpoint)
    images = algorithm.data_preprocessor(batch(8, seed=1), False)['inputs']
    for number, subnet in ((1, '1'), (2, files[2])):
        deployed = deploy_subnet(CONFIG, checkpoint, subnet, cfg_options=settings)
        assert deployed.verified.ok
        assert deployed.config.parent.name == f'deployed_{Path(subnet).stem}'
        network = load_network(deployed.config, deployed.checkpoint)
        algorithm.eval().switch_subnet(number)
        with torch.no_grad():
            torch.testing.assert_close(network(images), algorithm(images), rtol=1e-4, atol=1e-5)
    # The config of a subnet has the loops of all of them, and works alone.
    alone = evaluate(deployed.config, deployed.checkpoint, tmp_path / 'alone')
    assert alone['accuracy/top1'] == metrics['subnet2/accuracy/top1']

    with pytest.raises(InputError, match='no subnet 3: 3 are retrained jointly'):
        deploy_subnet(CONFIG, checkpoint, '3', cfg_options=settings)
    widest = export_subnet(CONFIG, untrained, 'max', tmp_path / 'max.yaml')
    with pytest.raises(InputError, match=r'max\.yaml: is none of the 3 subnets that model'):
        deploy_subnet(CONFIG, checkpoint, widest, cfg_options=settings)
    with pytest.raises(InputError, match='retrains 3 given subnets jointly'):
        search_subnet(CONFIG, checkpoint, tmp_path / 'search', cfg_options=settings)


def test_a_list_that_makes_no_sense(build: Build, files: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match='lists no subnets'):
        build(retraining=True, channel_cfg=[])
    other = tmp_path / 'other.yaml'
    other.write_text(re.sub('layer1', 'layer7', Path(files[1]).read_text()))
    with pytest.raises(InputError, match=r'other\.yaml.*layer7'):
        build(retraining=True, channel_cfg=[files[0], str(other)], pruner=PRUNER)
