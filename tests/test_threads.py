"""What threads do with one network at the same time is done one after the other."""

import os
import signal
import threading
import time
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import mmprune
from mmprune.pruners import RatioPruner


class Small(nn.Module):
    """Layers with kernels of mmprune's, and attention and a bare parameter, without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(6)])
        self.scale = nn.Parameter(torch.rand(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.stem(x)).flatten(2).transpose(1, 2) * self.scale
        return self.head(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('threads', [1, 2])
def test_what_runs_while_a_subnet_is_set_is_right(execution: str, threads: int) -> None:
    torch.manual_seed(0)
    model, x = Small().eval(), torch.rand(2, 3, 6, 6)
    pruner = RatioPruner([0.5, 1.0], importance=dict(type='RandomImportance'), execution=execution)
    pruner.prepare_from_supernet(model, x)
    subnets = [pruner.sample_subnet() for _ in range(3)]
    expected = []
    with torch.no_grad():
        for subnet in subnets:
            pruner.set_subnet(subnet)
            expected.append(model(x))
    assert not torch.equal(expected[0], expected[1])
    found: list[Any] = []
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            try:
                with torch.no_grad():
                    found.append(model(x))
            except Exception as error:
                found.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        for index in range(200):
            pruner.set_subnet(subnets[index % 3])
            if index % 40 == 0:
                assert pruner.verify_subnet(subnet=subnets[1]).ok
                with torch.no_grad():
                    small = pruner.deploy_subnet(model)(x)
                assert (small - expected[index % 3]).abs().max() < 1e-5
    finally:
        is_over.set()
        for thread in running:
            thread.join()
    assert len(found) > 10
    for result in found:
        assert isinstance(result, torch.Tensor), result
        assert min((result - each).abs().max().item() for each in expected) < 1e-5


def test_networks_are_pruned_in_several_threads() -> None:
    """Each its own, and all the same one, which stays as it is."""
    shared, found = Small().eval(), []

    def prune(network: nn.Module) -> None:
        try:
            found.append(mmprune.prune(network, torch.rand(2, 3, 6, 6), ratio=0.5).verified.ok)
        except Exception as error:
            found.append(error)

    networks = [Small().eval(), Small().eval(), shared, shared]
    threads = [threading.Thread(target=prune, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert not [module for module in shared.modules() if 'forward' in vars(module)]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that are forked')
def test_a_fork_waits_for_what_other_threads_do() -> None:
    """A child has no other threads, and would wait for them for ever."""
    model, x = Small().eval(), torch.rand(2, 3, 6, 6)
    pruner = RatioPruner([0.5, 1.0])
    pruner.prepare_from_supernet(model, x)
    begun = threading.Event()

    def run() -> None:
        with pruner.supernet.execution.alone:
            begun.set()
            time.sleep(0.2)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # later Pythons warn of threads and forks
        child = os.fork()
    if child == 0:
        signal.alarm(10)
        pruner.set_min_channel()
        with torch.no_grad():
            model(x)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    pruner.set_min_channel()
