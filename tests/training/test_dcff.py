"""Filters that are mixtures while they train: what is computed, deployed, resumed, refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iterative_config import tiny
from mmengine.config import Config
from mmengine.runner import Runner
from pruned_network import IMAGE, Network
from randomised import randomise
from spoiled_states import assert_spoiled_states_are_refused
from torch.func import functional_call

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.run import evaluate, train
from mmprune.errors import InputError
from mmprune.importance import FusionImportance
from mmprune.registry import PRUNERS
from mmprune.training import DCFF
from mmprune.training.dcff import SHARES_KEY

PRUNER = dict(type='ImportancePruner', budget=dict(macs=0.5), scope='local', importance='Fusion')


def small(**hook: Any) -> Config:
    cfg = tiny()
    settings = dict(pruner=dict(PRUNER), input_shape=(1, 1, 8, 8), end=3)
    cfg.custom_hooks = [dict(type='mmprune.DCFF', **{**settings, **hook})]
    return cfg


def prepared(**options: Any) -> tuple[Network, Any, FusionImportance]:
    importance = FusionImportance(0.5)
    model = randomise(Network().double()).eval()
    pruner = PRUNERS.build(dict(PRUNER, importance=importance) | options)
    pruner.prepare_from_supernet(model, IMAGE)
    return model, pruner, importance


def test_shares_and_scores_by_hand() -> None:
    """Filters 0, 1 and 3 on a line, at one mean distance as temperature."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1, bias=False), torch.nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([0.0, 1, 3]).reshape(3, 1, 1, 1))
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    pruner.prepare_from_supernet(network, torch.rand(1, 1, 2, 2))
    group = pruner.channel_groups['0']
    mean = (1 + 3 + 2) / 3
    powers = np.exp(-np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]]) / mean)
    shares = powers / powers.sum(1, keepdims=True)
    importance = FusionImportance()
    np.testing.assert_allclose(importance.shares(group, network).exp().numpy(), shares, rtol=1e-6)
    divergence = [
        np.mean([(shares[k] * np.log(shares[k] / other)).sum() for other in shares])
        for k in range(3)
    ]
    found = importance.scores(group, network)
    np.testing.assert_allclose(found, divergence, rtol=1e-6)
    assert found.argmax() == 2


@pytest.mark.parametrize('temperature', [0.5, 1e-3])
def test_the_mixed_network_is_the_one_whose_weights_are_the_mixtures(temperature: float) -> None:
    """Through sums, concatenations, grouped and depthwise convolutions, at any kept channels."""
    model, pruner, importance = prepared()
    importance.temperature = temperature
    pruner.prune()
    mixings = importance.mixings(pruner.channel_groups, model)
    assert {'stem.weight', 'stem.bias', 'right.weight', 'deep.weight', 'fc.bias'} <= mixings.keys()
    assert not {'stem_norm.weight', 'head.weight', 'layer_norm.bias'} & mixings.keys()
    parameters = dict(model.named_parameters())
    mixed = {name: function(parameters[name]) for name, function in mixings.items()}
    plain = model(IMAGE)
    by_hand = functional_call(model, mixed, (IMAGE,))
    # Of what is kept alone: the rest is cut away.
    subnet = pruner.current_subnet()
    pruner.supernet.execution.mix(importance.mixings(pruner.channel_groups, model, subnet))
    pruner.set_subnet(subnet)
    found = model(IMAGE)
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGE), found, rtol=1e-10, atol=1e-12)
    distance = float((found - plain).detach().abs().max())
    assert distance > 1e-3 if temperature == 0.5 else distance < 1e-10
    if temperature == 0.5:
        found.sum().backward()
        assert (parameters['left.weight'].grad != 0).flatten(1).any(1).all()  # of all filters


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Path]:
    folder = tmp_path_factory.mktemp('dcff')
    return train(small(), folder), folder


def hook_of(runner: Runner) -> DCFF:
    return next(hook for hook in runner.hooks if isinstance(hook, DCFF))


def test_the_mixed_network_is_the_deployed_one_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last temperature has made of the filters is what goes on, without a jump."""
    outputs = []
    settle = DCFF._settle

    def look(runner: Runner) -> torch.Tensor:
        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        runner.model.eval()
        with torch.no_grad():
            found = runner.model(images)
        runner.model.train()
        return found

    def record(self: DCFF) -> None:
        outputs.append(look(runners[0]))
        settle(self)

    runners: list[Runner] = []
    before_run, deploy = DCFF.before_run, DCFF._deploy
    monkeypatch.setattr(DCFF, 'before_run', lambda s, r: (runners.append(r), before_run(s, r))[1])
    monkeypatch.setattr(DCFF, '_settle', record)
    monkeypatch.setattr(DCFF, '_deploy', lambda s, r: (deploy(s, r), outputs.append(look(r)))[0])
    train(small(temperatures=(1.0, 0.5), end=1, by_epoch=False), tmp_path)
    mixed, deployed = outputs
    assert mixed.abs().max() > 0
    torch.testing.assert_close(deployed, mixed, rtol=1e-5, atol=1e-6)


def test_the_small_network_trains_from_the_start(trained: tuple[Runner, Path]) -> None:
    runner, folder = trained
    assert hook_of(runner).is_deployed
    weights = read_checkpoint(folder / 'epoch_4.pth')['state_dict']
    masks = read_checkpoint(folder / 'epoch_1.pth')['state_dict']
    name = 'backbone.layer1.0.conv1'
    kept = int(masks[f'{name}.out_mask'].sum())
    assert weights[f'{name}.weight'].shape[0] == kept < 8
    assert 0 <= evaluate(folder / 'deployed.py', folder / 'epoch_4.pth')['accuracy/top1'] <= 100


def test_temperatures_fall_by_equal_factors() -> None:
    hook = DCFF(begin=1, end=5, temperatures=(1.0, 1e-4))
    assert [round(hook.temperature(now), 8) for now in (1, 2, 5, 9)] == [1, 0.1, 1e-4, 1e-4]


def test_a_training_stopped_between_two_looks_goes_on_with_the_same_mixtures(
    tmp_path: Path,
) -> None:
    cfg = small(end=9, interval=3, by_epoch=False)
    cfg.default_hooks.checkpoint.by_epoch = False
    train(cfg.copy(), tmp_path / 'whole')
    train(cfg, tmp_path / 'resumed', resume=tmp_path / 'whole' / 'iter_8.pth')
    whole, resumed = (read_checkpoint(tmp_path / f / 'iter_12.pth') for f in ('whole', 'resumed'))
    torch.testing.assert_close(resumed['state_dict'], whole['state_dict'], rtol=0, atol=0)
    assert_spoiled_states_are_refused(lambda: cfg, tmp_path / 'whole' / 'iter_8.pth', SHARES_KEY)


@pytest.mark.parametrize('epoch', [1, 2])
def test_a_checkpoint_is_tested_as_it_was_trained(
    trained: tuple[Runner, Path], monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """By the mixtures of its time, not those that its weights would give now."""
    _, folder = trained
    shares = []
    mix = DCFF._mix
    monkeypatch.setattr(DCFF, '_mix', lambda hook: (shares.append(hook._shares), mix(hook)))
    evaluate(small(), folder / f'epoch_{epoch}.pth', folder / 'test')
    kept = read_checkpoint(folder / f'epoch_{epoch}.pth')[SHARES_KEY]
    torch.testing.assert_close(shares, [kept], rtol=0, atol=0)


def test_mixtures_of_another_network(trained: tuple[Runner, Path], tmp_path: Path) -> None:
    content = read_checkpoint(trained[1] / 'epoch_1.pth')
    shares = content[SHARES_KEY]
    shares[next(iter(shares))] = torch.zeros(3, 3)
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(
        InputError, match=r'x\.pth: mmprune_shares: .* is of shape \(3, 3\), not \(8, 8\)'
    ):
        evaluate(small(), tmp_path / 'x.pth', tmp_path)


def test_mixtures_that_have_become_the_weights_are_mixed_no_more(tmp_path: Path) -> None:
    train(small(deploy=False, end=2), tmp_path)
    told = [SHARES_KEY in read_checkpoint(tmp_path / f'epoch_{n}.pth') for n in (1, 2, 3)]
    assert told == [True, True, False]


# -- refusals ----------------------------------------------------------------------------


def test_temperatures_that_do_not_fall() -> None:
    for wrong in ((0.1, 1.0), (1.0, 0.0)):
        with pytest.raises(InputError, match='temperatures fall, and are above 0'):
            DCFF(temperatures=wrong)


@pytest.mark.parametrize('wrong', [dict(importance='L1'), dict(execution='mask')])
def test_a_pruner_that_cannot_mix_filters(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match='DCFF needs a pruner with importance=dict'):
        train(small(pruner=dict(PRUNER, **wrong)), tmp_path)
