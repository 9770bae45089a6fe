"""The mim commands again: several processes, and the whole way of a supernet."""

from pathlib import Path

import pytest
from installation import accuracy, mim

pytestmark = pytest.mark.mim


def test_two_processes(installed: Path, tmp_path: Path) -> None:
    """As on two GPUs, here on the CPU."""
    launch = ('--launcher', 'pytorch', '--gpus', '2')
    options = ('--work-dir', 'out', '--cfg-options', 'train_cfg.max_epochs=1')
    printed = mim(
        installed, tmp_path, 'train', 'mmprune', 'resnet-small_1xb64_digits.py', *launch, *options
    )
    # Half of the 20 steps of one process.
    assert 'Epoch(train) [1][10/10]' in printed
    checkpoint = tmp_path / 'out' / 'epoch_1.pth'
    tested = mim(
        installed,
        tmp_path,
        'test',
        'mmprune',
        'resnet-small_1xb64_digits.py',
        '-C',
        checkpoint,
        *launch,
    )
    assert 0 < accuracy(tested) <= 100


def test_from_a_supernet_to_a_deployed_network(installed: Path, tmp_path: Path) -> None:
    """Train, search, export and deploy a tiny supernet; the files are what the tools say."""
    supernet = 'autoslim_resnet-tiny_1xb32_digits.py'
    # `mim run` hands on what it is given, so here the config's name is found by the tools.
    mim(installed, tmp_path, 'train', 'mmprune', supernet, '--work-dir', 'supernet')
    checkpoint = Path('supernet', 'epoch_2.pth')

    searched = (supernet, checkpoint, '--work-dir', 'search')
    mim(installed, tmp_path, 'run', 'mmprune', 'search_subnet', *searched)
    found = sorted((tmp_path / 'search').glob('subnet_*.yaml'))
    assert [path.name for path in found] == ['subnet_0.5.yaml', 'subnet_0.8.yaml']

    exported = (supernet, checkpoint, '--subnet', 'min', '--out', 'min.yaml')
    mim(installed, tmp_path, 'run', 'mmprune', 'export_subnet', *exported)
    assert 'backbone.conv1' in (tmp_path / 'min.yaml').read_text()

    deployed = (supernet, checkpoint, found[0], '--out-dir', 'deployed', '--onnx')
    mim(installed, tmp_path, 'run', 'mmprune', 'deploy_subnet', *deployed)
    written = {path.suffix for path in (tmp_path / 'deployed').iterdir()}
    assert {'.pth', '.py', '.onnx'} <= written
    (config,) = (tmp_path / 'deployed').glob('*.py')
    (weights,) = (tmp_path / 'deployed').glob('*.pth')
    printed = mim(installed, tmp_path, 'test', 'mmprune', config, '--checkpoint', weights)
    assert 0 <= accuracy(printed) <= 100
