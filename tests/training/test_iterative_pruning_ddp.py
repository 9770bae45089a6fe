"""Two processes prune one model while they train it, and go on with the small one."""

from pathlib import Path

import pytest
import torch
from two_processes import in_two_processes

WORKER = Path(__file__).with_name('iterative_worker.py')


@pytest.mark.parametrize('kind', ['images', 'listen', 'mixtures'])
def test_two_processes_go_on_with_the_same_small_network(tmp_path: Path, kind: str) -> None:
    in_two_processes(WORKER, str(tmp_path), kind)
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['backbone.layer1.0.conv1.weight'].shape[0] < 8
    assert (tmp_path / 'deployed.py').is_file()
    weights = {name for name in first if name.endswith(('weight', 'bias'))}
    for name in weights:  # gradients are averaged; statistics are each process's own
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
