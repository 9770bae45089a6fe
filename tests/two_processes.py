"""A script in two processes that talk to each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def in_two_processes(worker: Path, *arguments: str) -> None:
    """Run ``worker`` as torch's launcher does, with ranks 0 and 1, and fail with what it says."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = str(sock.getsockname()[1])
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        'OMP_NUM_THREADS': '1',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': port,
        'WORLD_SIZE': '2',
    }
    processes = [
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', str(worker), *arguments],
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
