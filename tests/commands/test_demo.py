"""The demo, on a network that is trained for seconds."""

import json
from pathlib import Path

import pytest

from mmprune.commands.demo import run_demo
from mmprune.errors import InputError

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
OPTIONS = {
    'train_dataloader.dataset.indices': 320,
    'train_cfg.val_interval': 100,
    'search_cfg.targets': [0.6],
    # What finetuning shortens.
    'param_scheduler': [
        {'type': 'ConstantLR', 'factor': 1.0},
        {'type': 'CosineAnnealingLR', 'end': 2},
    ],
}


def test_the_demo_goes_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'demo'
    report = run_demo(CONFIG, folder, OPTIONS)

    full, subnet = report.rows
    assert subnet.macs <= 0.6 * full.macs
    assert full.num_different == subnet.num_different == 0
    assert full.deployed == full.supernet
    assert subnet.deployed == subnet.supernet
    assert subnet.finetuned is not None
    assert min(full.latency_ms, subnet.latency_ms) > 0
    (found,) = json.loads((folder / 'search' / 'search_results.json').read_text())
    assert found['macs'] == subnet.macs
    assert [macs for macs, _ in report.uniform] == sorted(macs for macs, _ in report.uniform)
    assert report.uniform[-1][0] == full.macs
    image = (folder / 'accuracy_over_macs.png').read_bytes()
    assert image.startswith(b'\x89PNG')

    printed = capsys.readouterr().out
    for words in ('python tools/search_subnet.py', 'verified:', '0.6', 'differ'):
        assert words in printed
    # The tools' own output is in the log.
    assert 'mmengine' not in printed
    assert 'candidate 1:' in (folder / 'log.txt').read_text()


def test_a_folder_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match='not of an earlier demo'):
        run_demo(CONFIG, tmp_path)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'
