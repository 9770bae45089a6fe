"""Two processes train one supernet."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name('ddp_worker.py')


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_two_processes_average_the_gradients_of_all_widths(tmp_path: Path, execution: str) -> None:
    port = str(free_port())
    environment = {**os.environ, 'PYTHONPATH': str(WORKER.parents[2])}
    processes = []
    for rank in (0, 1):
        command = [sys.executable, str(WORKER), str(rank), port, str(tmp_path), execution]
        with (tmp_path / f'{rank}.log').open('w') as log:
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
            assert not process.poll(), (tmp_path / f'{rank}.log').read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()

    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))

    torch.testing.assert_close(first['subnets'], second['subnets'], rtol=0, atol=0)
    assert len({tuple(s['backbone.conv1'].flatten().tolist()) for s in first['subnets']}) > 1
    torch.testing.assert_close(first['weights'], second['weights'], rtol=0, atol=0)
    # Plain SGD: the average of two steps is a step along the average of two gradients.
    torch.testing.assert_close(first['weights'], first['averaged'])
    assert 'random_subnet1.loss' in first['logs']
