"""Two processes train one supernet."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.models import AutoSlim

WORKER = Path(__file__).with_name('ddp_worker.py')


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


Results = list[dict[str, Any]]


def in_two_processes(folder: Path, *arguments: str) -> Results:
    """Let both processes train, and return what each has found."""
    port = str(free_port())
    environment = {**os.environ, 'PYTHONPATH': str(WORKER.parents[2])}
    processes = []
    for rank in (0, 1):
        command = [sys.executable, str(WORKER), str(rank), port, str(folder), *arguments]
        with (folder / f'{rank}.log').open('w') as log:
            processes.append(subprocess.Popen(command, env=environment, stderr=log))
    try:
        # The first one to fail ends the test; the other would wait for it.
        deadline = time.monotonic() + 120
        while any(process.poll() is None for process in processes):
            assert time.monotonic() < deadline, 'the processes did not finish'
            if any(process.poll() for process in processes):
                break
            time.sleep(0.1)
        for rank, process in enumerate(processes):
            assert not process.poll(), (folder / f'{rank}.log').read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_two_processes_average_the_gradients_of_all_widths(tmp_path: Path, execution: str) -> None:
    first, second = in_two_processes(tmp_path, execution)

    torch.testing.assert_close(first['subnets'], second['subnets'], rtol=0, atol=0)
    assert len({tuple(s['backbone.conv1'].flatten().tolist()) for s in first['subnets']}) > 1
    torch.testing.assert_close(first['weights'], second['weights'], rtol=0, atol=0)
    # Plain SGD: the average of two steps is a step along the average of two gradients.
    torch.testing.assert_close(first['weights'], first['averaged'])
    assert 'random_subnet1.loss' in first['logs']


def test_two_processes_retrain_subnets_jointly(
    build: Callable[..., AutoSlim], tmp_path: Path
) -> None:
    """No subnet uses the norms of the others; all of them get the average of both processes."""
    supernet, files = build(), [tmp_path / 'max.yaml', tmp_path / 'min.yaml']
    save_channel_cfg(supernet.pruner.export_subnet(), files[0])
    supernet.pruner.set_min_channel()
    save_channel_cfg(supernet.pruner.export_subnet(), files[1])
    first, second = in_two_processes(tmp_path, 'slice', *map(str, files))
    torch.testing.assert_close(first['weights'], second['weights'], rtol=0, atol=0)
    torch.testing.assert_close(first['weights'], first['averaged'])
    own = [name for name in first['weights'] if name.startswith('switchable_norms.1.')]
    trained = [name for name in own if not bool((first['weights'][name] == 1).all())]
    assert 'switchable_norms.1.backbone.bn1.weight' in trained
    assert 'subnet1.loss' in first['logs']
