"""The command lines: their help, what they write, and how they fail."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope

from mmprune.config import load_config
from mmprune.registry import MODELS
from mmprune.search import read_candidates

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
NAMES = ['search_subnet', 'export_subnet', 'deploy_subnet', 'demo']
Run = Callable[..., int]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = load_config(CONFIG)
    init_default_scope('mmcls')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    path = tmp_path_factory.mktemp('supernet') / 'supernet.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    DefaultScope._instance_dict.clear()
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a tool in this process, as its command line would; return the exit status."""

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        try:
            runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run


@pytest.mark.parametrize('name', NAMES)
def test_help_explains(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, '--help') == 0
    text = capsys.readouterr().out
    assert '--cfg-options' in text
    assert 'default:' in text


def test_from_the_search_to_a_deployed_network(
    run: Run, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = tmp_path / 'search'
    options = ('--cfg-options', 'search_cfg.targets=[0.7]')
    assert run('search_subnet', CONFIG, checkpoint, '--work-dir', search, *options) == 0
    subnet = search / 'subnet_0.7.yaml'
    assert 'subnet_0.7.yaml' in (search / 'search.html').read_text()
    assert (search / 'search.png').is_file()
    history = read_candidates(search)
    assert run('search_subnet', CONFIG, checkpoint, '--work-dir', search, '--resume', *options) == 0
    assert read_candidates(search) == history

    exported = tmp_path / 'exported.json'
    assert run('export_subnet', CONFIG, checkpoint, '--subnet', subnet, '--out', exported) == 0

    deployed = tmp_path / 'deployed'
    capsys.readouterr()
    assert run('deploy_subnet', CONFIG, checkpoint, exported, '--out-dir', deployed) == 0
    assert 'Deployed and verified' in capsys.readouterr().out
    names = {path.name for path in deployed.iterdir()}
    assert names == {'deployed.pth', 'deployed.py', 'channel_cfg.yaml'}


@pytest.mark.parametrize('name', NAMES[:3])
def test_bad_input_ends_with_one_message_and_status_2(
    name: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'bad.pth').write_bytes(b'PK\x03\x04 cut off')
    outputs = {
        'search_subnet': ['--work-dir', tmp_path / 'out'],
        'export_subnet': ['--subnet', 'min', '--out', tmp_path / 'out'],
        'deploy_subnet': [tmp_path / 'subnet.yaml', '--out-dir', tmp_path / 'out'],
    }
    assert run(name, CONFIG, tmp_path / 'bad.pth', *outputs[name]) == 2
    error = capsys.readouterr().err
    assert f'error: {tmp_path / "bad.pth"}: not a checkpoint' in error
    assert 'Traceback' not in error
    assert [path.name for path in tmp_path.iterdir()] == ['bad.pth']


def test_as_a_script(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, TOOLS / 'export_subnet.py', CONFIG, checkpoint]
    command += ['--subnet', 'min', '--out', tmp_path / 'min.yaml']
    environment = {**os.environ, 'PYTHONPATH': str(TOOLS.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'min.yaml').is_file()
