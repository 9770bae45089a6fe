"""Every tool says before it begins that it could not write what it is asked for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmprune.commands import demo, diagnose, estimate_latency, export_subnet, sensitivity
from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.estimate_latency import LatencyOptions
from mmprune.commands.print_config import print_config
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.commands.run import evaluate, train
from mmprune.commands.search_subnet import search_subnet
from mmprune.commands.sensitivity import SensitivityOptions
from mmprune.config import find_config
from mmprune.errors import InputError, UnwritableError
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


def test_what_is_read_is_not_written_over(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(untrained, tmp_path / 'deployed.pth')
    os.symlink('deployed.pth', 'link.pth')
    config = Path('deployed.py')
    config.write_text(f'_base_ = [{str(find_config(CONFIG))!r}]\n# mine\n')
    own = config.read_bytes()
    export_subnet.export_subnet(config, 'link.pth', 'min', 'channel_cfg.yaml')
    json = LatencyOptions(table='t.json', json='t.json')
    calls: list[Callable[[], Any]] = [
        lambda: export_subnet.export_subnet(config, 'link.pth', 'max', 'deployed.pth'),
        lambda: export_subnet.export_subnet(config, 'link.pth', 'max', config),
        lambda: evaluate(config, 'link.pth', 'work', tmp_path / 'deployed.pth'),
        lambda: deploy_subnet(config, 'link.pth', 'channel_cfg.yaml', tmp_path),
        lambda: prune(config, untrained, '.', options=HALF),
        lambda: estimate_latency.estimate_latency(config, json),
        lambda: print_config(config, out='deployed.py'),
    ]
    for call in calls:
        with pytest.raises(UnwritableError, match=r'(is read|another output).* name another place'):
            call()
    # A config in the work directory stays too; mmengine writes one of the same name there.
    evaluate(config, 'link.pth', '.', cfg_options={'log_level': 'ERROR'})
    assert (config.read_bytes(), Path('deployed_as_run.py').is_file()) == (own, True)
    # Nor is what a config's model names: the network that was deployed here.
    files = deploy_subnet(config, 'link.pth', 'channel_cfg.yaml', 'small')
    mine = Path('small/mine.py')
    shutil.copy(files.config, mine)
    with pytest.raises(UnwritableError, match=r'deployed\.pth: is read'):
        prune(mine, shutil.copy(files.checkpoint, 'x.pth'), 'small', options=HALF)
    assert evaluate(mine, files.checkpoint, 'work')


def test_nor_is_what_a_config_builds_on_or_names(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, base, given = Path('mine.py'), Path('work/mine.py'), Path('small.yaml')
    base.parent.mkdir()
    base.write_text(f'_base_ = [{str(find_config(CONFIG))!r}]\n')
    Path('lazy.py').write_text(
        'from mmengine.config import read_base\nwith read_base():\n    from .lazybase import *\n'
    )
    config.write_text("_base_ = 'work/mine.py'\nload_from = 'best_top1.pth'\n")
    for name in ('list.txt', 'ratios.json', 'groups.svg', 'subnet_0.5.yaml', 'lazybase.py'):
        Path(name).touch()
    shutil.copy(untrained, 'best_top1.pth')
    export_subnet.export_subnet(config, untrained, 'min', given)
    data = {'data_root': '.', 'ann_file': 'list.txt'}
    calls: list[Callable[[], Any]] = [
        lambda: print_config(config, out=base),
        lambda: print_config('lazy.py', out='lazybase.py'),
        lambda: export_subnet.export_subnet(config, untrained, given, given),
        lambda: evaluate(config, untrained, 'work', 'best_top1.pth'),
        lambda: evaluate(config, untrained, 'work', 'list.txt', data),
        lambda: sensitivity.sensitivity(
            config, untrained, SensitivityOptions(out_dir='.'), {'load_from': 'ratios.json'}
        ),
        lambda: diagnose.diagnose(config, 'groups.svg', '.'),
        lambda: train(config, '.'),
        lambda: search_subnet(config, 'subnet_0.5.yaml', '.'),
    ]
    for call in calls:
        with pytest.raises(UnwritableError, match=r'is read.* name another place'):
            call()
    own = base.read_bytes()
    evaluate(config, 'best_top1.pth', 'work', cfg_options={'log_level': 'ERROR'})
    assert (base.read_bytes(), Path('work/mine_as_run.py').is_file()) == (own, True)


def test_names_that_could_not_be_used_are_told_first(untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match='no name of a file'):
        train(CONFIG, tmp_path / '\udcff')
    with pytest.raises(UnwritableError, match='a carriage return'):
        deploy_subnet(CONFIG, untrained, 'subnet.yaml', tmp_path / 'a\rb')
    with pytest.raises(InputError, match='suffix of --plot must be one of'):
        estimate_latency.estimate_latency(CONFIG, LatencyOptions(plot=tmp_path / 'x.txt'))
