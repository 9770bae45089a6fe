"""Configs with `read_base()`, whose types are classes, go the way that others go."""

from pathlib import Path

import pytest

from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.models.algorithm import load_network

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'
LAZY = """
from mmengine.config import read_base
with read_base():
    from .lazy_base import *
from mmprune.models import AutoSlim
from mmprune.pruners import RatioPruner
from mmprune.search import GreedySearchLoop

model.update(type=AutoSlim)
model['pruner'].update(type=RatioPruner)
search_cfg.update(type=GreedySearchLoop, targets=[0.8])
"""


def test_classes_in_the_place_of_names(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmprune.search.page.SearchFiles.draw', lambda *_: None)
    monkeypatch.setattr('mmprune.commands.picked_subnet.SECONDS', 0.05)
    (tmp_path / 'lazy_base.py').write_text(load_config(CONFIG).pretty_text)
    lazy = tmp_path / 'lazy.py'
    lazy.write_text(LAZY)
    quiet = {'log_level': 'ERROR'}
    (found,) = search_subnet(lazy, untrained, tmp_path / 'search', cfg_options=quiet)
    files = deploy_subnet(lazy, untrained, out_dir=tmp_path / 'small', study=tmp_path / 'search')
    assert load_network(files.config, files.checkpoint)
    pruned = prune(lazy, untrained, tmp_path / 'half', options=PruneOptions(ratio=0.5))
    assert load_network(pruned.config, pruned.checkpoint)
    assert found.budget == '0.8'
