"""Tools take configs of detectors of two stages and of poses as they are."""

from pathlib import Path

import pytest
from family_models import config_of
from mmengine.config import Config
from tiny_models import TINY

from mmprune.commands.diagnose import diagnose
from mmprune.commands.get_flops import get_flops
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_model
from mmprune.training.deployed_files import verified_network


def written(name: str, folder: Path, **settings: object) -> Path:
    package, path, options = TINY[name]
    cfg = config_of(package, path, **options)
    path = folder / 'config.py'
    plain = Config(dict(model=cfg.model, default_scope=package, **settings))
    path.write_text(plain.pretty_text, encoding='utf-8')
    return path


@pytest.mark.parametrize('name', ['Faster R-CNN', 'RTMPose'])
def test_diagnosed(name: str, tmp_path: Path) -> None:
    settings = {} if name == 'RTMPose' else dict(demo_input=dict(input_shape=(1, 3, 64, 64)))
    config = written(name, tmp_path, **settings)
    found = diagnose(config, out_dir=tmp_path, subnets=1)
    assert found.problem is None
    assert all(each.report.ok for each in found.verified)
    size = '1x3x64x64' if settings else '1x3x256x192'
    assert found.input == f'{size} of uniform noise, float64'


def test_a_detector_of_two_stages_in_an_autoslim(tmp_path: Path) -> None:
    """Its RoI head counts, on proposals that do not depend on the network."""
    config = written('Faster R-CNN', tmp_path, demo_input=dict(input_shape=(1, 3, 64, 64)))
    assert get_flops(config)['macs'] > 0
    cfg = Config.fromfile(config)
    pruner = dict(type='mmprune.RatioPruner', ratios=[0.5, 1.0])
    cfg.model = dict(
        type='mmprune.AutoSlim', architecture=cfg.model, demo_input=cfg.demo_input, pruner=pruner
    )
    algorithm = build_model(cfg)
    assert isinstance(algorithm, AutoSlim)
    algorithm.pruner.set_min_channel()
    network, report = verified_network(algorithm, 'narrowest')
    assert report.roads == ('eval', 'train', 'loss')
    assert network.roi_head.bbox_head.shared_fcs[0].out_features == 8
