"""tools/diagnose.py as a command: its help, its files, its exit status."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'diagnose.py'
CONFIG = 'resnet-small_1xb64_digits.py'
SHAPE = ('--input-shape', 1, 1, 8, 8)


@pytest.fixture
def run(monkeypatch):
    """Run the tool in this process, as its command line would; return the exit status."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['diagnose', *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(TOOL), run_name='__main__')
        return int(stopped.value.code or 0)

    return run


def test_help_explains(run, capsys):
    assert run('--help') == 0
    text = capsys.readouterr().out
    for word in ('report.txt', 'report.json', 'groups.svg', 'exit status', 'examples', 'default:'):
        assert word in text
    for option in ('--checkpoint', '--input-shape', '--subnets', '--out-dir', '--cfg-options'):
        assert option in text


def test_a_prunable_network(run, tmp_path, capsys):
    assert run(CONFIG, '--subnets', 1, '--out-dir', tmp_path / 'out') == 0
    printed = capsys.readouterr().out
    assert 'on 1x1x8x8, the first image of test_dataloader' in printed
    assert 'diagnosis of ' in printed
    assert 'PRUNABLE: 99.99% of the parameters' in printed
    assert str(tmp_path / 'out' / 'groups.svg') in printed
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'report.txt', 'report.json', 'groups.svg'}


def test_a_network_that_does_not_take_the_input(run, tmp_path, capsys):
    assert run(CONFIG, '--input-shape', 3, 8, 8, '--out-dir', tmp_path / 'out') == 1
    printed = capsys.readouterr().out
    assert 'where: backbone.conv1 (Conv2d)' in printed
    assert 'give --input-shape' in printed
    written = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert (written['exit_status'], written['problem']['stage']) == (1, 'run')


def test_nothing_prunable(run, tmp_path):
    every = '--cfg-options', 'pruner.except_start_keys=["backbone"]'
    assert run(CONFIG, *SHAPE, '--out-dir', tmp_path / 'out', *every) == 1
    assert 'NOT PRUNABLE: every channel group' in (tmp_path / 'out' / 'report.txt').read_text()


@pytest.mark.parametrize(
    'arguments',
    [
        ('no_such_config.py',),
        (CONFIG, *SHAPE, '--checkpoint', 'no_such.pth'),
        (CONFIG, '--input-shape', 8),
        (CONFIG, *SHAPE, '--subnets', 0),
        (CONFIG, *SHAPE, '--cfg-options', 'pruner.attention=neither'),
    ],
)
def test_bad_input_ends_with_one_message_and_status_2(arguments, run, tmp_path, capsys):
    assert run(*arguments, '--out-dir', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert 'Traceback' not in error
    assert not (tmp_path / 'out').exists()


def test_as_a_script_from_another_folder(tmp_path):
    command = [sys.executable, TOOL, CONFIG, *map(str, SHAPE), '--subnets', '1']
    environment = {**os.environ, 'PYTHONPATH': str(TOOL.parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / 'work_dirs' / 'resnet-small_1xb64_digits' / 'diagnosis'
    assert sorted(path.name for path in folder.iterdir()) == [
        'groups.svg',
        'report.json',
        'report.txt',
    ]
