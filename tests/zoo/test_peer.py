"""Torch-Pruning beside mmprune: what it makes of a network is told as it is."""

import time
import warnings

import pytest
import torch
from small_classifiers import SMALL

from mmprune.zoo import peer
from mmprune.zoo.models import build_config
from mmprune.zoo.peer import PeerResult, PeerRun, prune

pytest.importorskip('torch_pruning', reason='Torch-Pruning is not installed')


@pytest.fixture
def asked(monkeypatch):
    """Ask Torch-Pruning about one of the small networks."""

    def ask(mechanism):
        monkeypatch.setattr(peer, 'build', lambda name, seed: build_config(SMALL[name], seed))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return prune(mechanism, 0.5, 0, None)

    return ask


def test_a_right_result_is_exact(asked):
    result = asked('response norm')
    assert result.outcome == 'exact'
    assert result.error < 1e-10
    assert 0.2 < result.kept < 0.5
    assert str(result) == f'exact {result.kept:.3f}'


def test_a_network_that_no_longer_runs_fails_with_its_error(asked):
    result = asked('pooling for attention, group norm')
    assert result.outcome == 'fails'
    assert result.detail.startswith('running: RuntimeError: ')


def test_a_network_that_cannot_be_pruned_fails_with_its_error(asked, monkeypatch):
    def refuse(*args, **kwargs):
        raise IndexError('index 4\n  of 4')

    monkeypatch.setattr(peer, 'prune_in_place', refuse)
    result = asked('response norm')
    assert result == PeerResult('fails', 'pruning: IndexError: index 4 of 4')


def test_a_wrong_result_is_told(asked, monkeypatch):
    def cut_the_wrong_inputs(model, batch, ratio, classes):
        block = model.backbone.stages[0][0]
        first, norm, second = block.pointwise_conv1, block.grn, block.pointwise_conv2
        with torch.no_grad():
            for module, name in (
                (first, 'weight'),
                (first, 'bias'),
                (norm, 'gamma'),
                (norm, 'beta'),
            ):
                setattr(module, name, torch.nn.Parameter(getattr(module, name)[1:]))
            second.weight = torch.nn.Parameter(second.weight[:, :-1])

    monkeypatch.setattr(peer, 'prune_in_place', cut_the_wrong_inputs)
    result = asked('response norm')
    assert result.outcome == 'wrong'
    assert result.error > 1e-3
    assert 'off by' in str(result)


def test_a_result_with_other_numbers_proves_nothing(asked, monkeypatch):
    def change(model, batch, ratio, classes):
        with torch.no_grad():
            model.backbone.stages[0][0].pointwise_conv1.weight.mul_(2)

    monkeypatch.setattr(peer, 'prune_in_place', change)
    result = asked('response norm')
    assert result.outcome == 'unproven'
    assert 'pointwise_conv1.weight has other numbers' in result.detail


def test_it_is_stopped_in_time():
    started = time.monotonic()
    with PeerRun('resnet18', 0.5, 0, None, limit=0) as running:
        result = running.result()
    assert result.outcome == 'no end'
    assert time.monotonic() - started < 5


def test_a_process_that_ends_badly_is_no_result():
    with PeerRun('no-such-network', 0.5, 0, None) as running:
        result = running.result()
    assert result.outcome == 'fails'
    assert "mmcls has no model config 'no-such-network'" in result.detail
