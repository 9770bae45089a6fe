"""The commands as a user types them, from any folder, after a normal install."""

import json
import re
import sys
from pathlib import Path

import pytest
from installation import accuracy, mim, run

pytestmark = pytest.mark.mim

CONFIG = 'resnet-small_1xb64_digits.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some folder of the user's."""
    return tmp_path_factory.mktemp('somewhere')


@pytest.fixture(scope='module')
def trained(installed: Path, folder: Path) -> Path:
    """The checkpoint that a full training leaves, and where it is by default."""
    mim(installed, folder, 'train', 'mmprune', CONFIG)
    return folder / 'work_dirs' / 'resnet-small_1xb64_digits' / 'epoch_20.pth'


def test_train_and_test(installed: Path, folder: Path, trained: Path) -> None:
    printed = mim(installed, folder, 'test', 'mmprune', CONFIG, '--checkpoint', trained)
    assert f'{installed}/mmprune/.mim/tools/test.py' in printed
    assert accuracy(printed) > 97


def test_resume(installed: Path, folder: Path, trained: Path) -> None:
    options = ('--resume', '--cfg-options', 'train_cfg.max_epochs=21')
    printed = mim(installed, folder, 'train', 'mmprune', CONFIG, *options)
    assert f'Load checkpoint from {trained}' in printed
    assert 'Epoch(train) [21]' in printed
    assert 'Epoch(train) [20]' not in printed


def test_run_gives_the_metrics_as_a_file(installed: Path, folder: Path, trained: Path) -> None:
    arguments = (CONFIG, trained, '--out', 'metrics.json')
    printed = mim(installed, folder, 'run', 'mmprune', 'test', *arguments)
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(accuracy(printed), abs=1e-3)


def test_search_finds_the_model(installed: Path, folder: Path) -> None:
    printed = mim(installed, folder, 'search', 'mmprune', '--model', 'digits')
    assert 'resnet-small_1xb64_digits' in printed


def test_help_of_a_tool_as_the_page_says(installed: Path, folder: Path) -> None:
    """Mim takes -h for itself, so the page has another command."""
    page = (Path(__file__).parents[1] / 'docs' / 'use-with-mim.md').read_text(encoding='utf-8')
    (inner, tool) = re.findall(r"python -c '([^']+)'\)(/\.mim/\S+)\" --help", page)[0]
    found = run(sys.executable, '-W', 'ignore', '-c', inner, cwd=folder, PYTHONPATH=str(installed))
    path = found.splitlines()[-1] + tool
    printed = run(sys.executable, path, '--help', cwd=folder, PYTHONPATH=str(installed))
    assert '--budget' in printed
