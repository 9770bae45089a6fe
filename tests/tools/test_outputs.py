"""Every tool says before it begins that it could not write what it is asked for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmprune.commands import demo, diagnose, estimate_latency, export_subnet, sensitivity
from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.estimate_latency import LatencyOptions
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.commands.run import evaluate, train
from mmprune.commands.search_subnet import search_subnet
from mmprune.commands.sensitivity import SensitivityOptions
from mmprune.errors import UnwritableError
from mmprune.zoo.check import Plan
from mmprune.zoo.table import run_zoo

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
HALF = PruneOptions(ratio=0.5)

# What each is given in the place of a folder, or of a file in one, is a file.
TOOLS: dict[str, Callable[[Path, Path], Any]] = {
    'train': lambda weights, bad: train(CONFIG, bad),
    'test': lambda weights, bad: evaluate(CONFIG, weights, weights.parent, bad / 'x.json'),
    'test in a folder': lambda weights, bad: evaluate(CONFIG, weights, bad),
    'search': lambda weights, bad: search_subnet(CONFIG, weights, bad),
    'export': lambda weights, bad: export_subnet.export_subnet(
        CONFIG, weights, 'max', bad / 'x.yaml'
    ),
    'deploy': lambda weights, bad: deploy_subnet(CONFIG, weights, 'subnet.yaml', bad),
    'prune': lambda weights, bad: prune(CONFIG, weights, bad, options=HALF),
    'sensitivity': lambda weights, bad: sensitivity.sensitivity(
        CONFIG, weights, SensitivityOptions(out_dir=bad)
    ),
    'diagnose': lambda weights, bad: diagnose.diagnose(CONFIG, out_dir=bad),
    'latency': lambda weights, bad: estimate_latency.estimate_latency(
        CONFIG, LatencyOptions(table=weights.parent / 't.json', json=bad / 'x.json')
    ),
    'demo': lambda weights, bad: demo.run_demo(CONFIG, bad),
    'zoo': lambda weights, bad: run_zoo(['resnet50'], Plan(), bad / 'x.json'),
}


@pytest.mark.parametrize('tool', TOOLS)
def test_a_file_where_a_folder_should_be(
    tool: str, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    weights = tmp_path / 'weights' / 'supernet.pth'
    weights.parent.mkdir()
    os.link(untrained, weights)
    with pytest.raises(UnwritableError, match='is a file, where a folder should be'):
        TOOLS[tool](weights, tmp_path / 'file')
    assert {path.name for path in tmp_path.rglob('*')} == {'file', 'weights', 'supernet.pth'}
