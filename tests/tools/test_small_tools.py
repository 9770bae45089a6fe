"""tools/get_flops.py, tools/print_config.py, and the scripts for several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmprune.commands.get_flops import get_flops
from mmprune.commands.print_config import print_config
from mmprune.config import load_config
from mmprune.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'resnet-small_1xb64_digits.py'


def test_costs_of_a_plain_config(capsys: pytest.CaptureFixture[str]) -> None:
    found = get_flops(CONFIG, (1, 8, 8))
    assert found == {'macs': 1_648_256, 'flops': 3_296_512, 'params': 174_970}
    rows = [line.split('│') for line in capsys.readouterr().out.splitlines() if '│' in line]
    cells = {row[1].strip(): [cell.strip().replace(',', '') for cell in row[2:5]] for row in rows}
    assert cells['head.fc'] == ['640', '1280', '650']
    assert cells.pop('all') == ['1648256', '3296512', '174970']
    for column, whole in enumerate(('macs', 'flops', 'params')):
        assert sum(int(row[column]) for row in cells.values()) == found[whole]


def test_costs_are_counted_on_an_image_of_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert get_flops(CONFIG)['macs'] == 1_648_256
    assert 'ImageClassifier on 1x1x8x8' in capsys.readouterr().out
    pipeline = [dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=(16, 8))]
    lost = {'type': 'ImageNet', 'data_root': 'nowhere', 'pipeline': pipeline}
    get_flops(CONFIG, cfg_options={'test_dataloader.dataset': dict(lost, _delete_=True)})
    assert 'ImageClassifier on 1x1x8x16' in capsys.readouterr().out


def test_costs_of_a_supernet_are_those_of_the_full_network() -> None:
    assert get_flops('autoslim_resnet-small_1xb64_digits.py')['macs'] == 1_648_256
    with pytest.raises(InputError, match='--depth counts the parts of a name'):
        get_flops(CONFIG, (1, 8, 8), depth=0)


def test_a_printed_config_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"suffix of --out must be one of '\.py', not '\.json'"):
        print_config(CONFIG, out=tmp_path / 'whole.json')
    text = print_config(CONFIG, {'train_cfg.max_epochs': 3}, tmp_path / 'whole.py')
    assert text in capsys.readouterr().out
    whole = Config.fromfile(tmp_path / 'whole.py')
    assert whole.model == load_config(CONFIG).model
    assert whole.train_cfg.max_epochs == 3


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    environment = dict(
        os.environ, PATH=path, PORT=port, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1',
        PYTHONWARNINGS='ignore',
    )  # fmt: skip
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_training_and_testing_in_two_processes(tmp_path: Path) -> None:
    config = 'autoslim_resnet-tiny_1xb32_digits.py'
    options = ('--work-dir', 'out', '--cfg-options', 'train_cfg.max_epochs=1')
    trained = run(str(ROOT / 'tools/dist_train.sh'), config, '2', *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert (tmp_path / 'out' / 'epoch_1.pth').is_file()
    # 128 images in batches of 32, two processes.
    assert 'Epoch(train) [1][2/2]' in trained.stdout
    checkpoint = 'out/epoch_1.pth'
    tested = run(
        str(ROOT / 'tools/dist_test.sh'), config, checkpoint, '2', '--work-dir', 'out', cwd=tmp_path
    )
    assert tested.returncode == 0, tested.stderr[-2000:]
    assert 'accuracy/top1' in tested.stdout


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_scripts_say_how_they_are_called(script: str, tmp_path: Path) -> None:
    called = run(str(ROOT / 'tools' / script), 'config.py', cwd=tmp_path)
    assert called.returncode == 2
    assert 'usage: ' in called.stderr
