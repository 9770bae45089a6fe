"""The commands as a user types them, from any folder, after a normal install."""

import json
import re
import sys
from pathlib import Path

import pytest
from installation import copy_tree, install, run

pytestmark = pytest.mark.mim
# Tests that use one another's files run in one process; the others may run beside them.
with_the_trained_network = pytest.mark.xdist_group('mim')

CONFIG = 'resnet_small_digits.py'


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a normal install of mmprune, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp('installation')
    install(copy_tree(folder / 'source'), folder / 'site')
    return folder / 'site'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some folder of the user's."""
    return tmp_path_factory.mktemp('somewhere')


@pytest.fixture(scope='module')
def trained(installed: Path, folder: Path) -> Path:
    """The checkpoint that a full training leaves, and where it is by default."""
    mim(installed, folder, 'train', 'mmprune', CONFIG)
    return folder / 'work_dirs' / 'resnet_small_digits' / 'epoch_20.pth'


def mim(installed: Path, folder: Path, *command: str | Path) -> str:
    # The script `mim` is this module's main, and need not be on the PATH.
    return run(
        sys.executable, '-m', 'mim', *command, cwd=folder, PYTHONPATH=str(installed), CI='true'
    )


def accuracy(output: str) -> float:
    return float(re.findall(r'Epoch\(test\).*accuracy/top1: ([\d.]+)', output)[-1])


@with_the_trained_network
def test_train_and_test(installed: Path, folder: Path, trained: Path) -> None:
    printed = mim(installed, folder, 'test', 'mmprune', CONFIG, '--checkpoint', trained)
    assert f'{installed}/mmprune/.mim/tools/test.py' in printed
    assert accuracy(printed) > 97


@with_the_trained_network
def test_resume(installed: Path, folder: Path, trained: Path) -> None:
    options = ('--resume', '--cfg-options', 'train_cfg.max_epochs=21')
    printed = mim(installed, folder, 'train', 'mmprune', CONFIG, *options)
    assert f'Load checkpoint from {trained}' in printed
    assert 'Epoch(train) [21]' in printed
    assert 'Epoch(train) [20]' not in printed


@with_the_trained_network
def test_run_gives_the_metrics_as_a_file(installed: Path, folder: Path, trained: Path) -> None:
    arguments = (CONFIG, trained, '--out', 'metrics.json')
    printed = mim(installed, folder, 'run', 'mmprune', 'test', *arguments)
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(accuracy(printed), abs=1e-3)


def test_from_a_supernet_to_a_deployed_network(installed: Path, tmp_path: Path) -> None:
    """Train, search, export and deploy a tiny supernet; the files are what the tools say."""
    supernet = 'autoslim_resnet_small_digits_tiny.py'
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


def test_two_processes(installed: Path, tmp_path: Path) -> None:
    """As on two GPUs, here on the CPU."""
    launch = ('--launcher', 'pytorch', '--gpus', '2')
    options = ('--work-dir', 'out', '--cfg-options', 'train_cfg.max_epochs=1')
    printed = mim(installed, tmp_path, 'train', 'mmprune', CONFIG, *launch, *options)
    # Half of the 20 steps of one process.
    assert 'Epoch(train) [1][10/10]' in printed
    checkpoint = tmp_path / 'out' / 'epoch_1.pth'
    tested = mim(installed, tmp_path, 'test', 'mmprune', CONFIG, '-C', checkpoint, *launch)
    assert 0 < accuracy(tested) <= 100


def test_search_finds_the_model(installed: Path, folder: Path) -> None:
    printed = mim(installed, folder, 'search', 'mmprune', '--model', 'digits')
    assert 'resnet_small_digits' in printed
