"""Two processes prune one model while they train it, and go on with the small one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name('iterative_worker.py')


def test_two_processes_go_on_with_the_same_small_network(tmp_path: Path) -> None:
    tests = WORKER.parents[1]
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = str(sock.getsockname()[1])
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(tests.parent), str(tests)]),
        'OMP_NUM_THREADS': '1',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': port,
        'WORLD_SIZE': '2',
    }
    command = [sys.executable, '-W', 'ignore', str(WORKER), str(tmp_path)]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, 'RANK': rank, 'LOCAL_RANK': rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in '01'
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['backbone.layer1.0.conv1.weight'].shape[0] < 8
    assert (tmp_path / 'deployed.py').is_file()
    weights = {name for name in first if name.endswith(('weight', 'bias'))}
    for name in weights:  # gradients are averaged; statistics are each process's own
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
