"""The configs of detectors, segmenters and pose estimators: pruned, deployed, taught, trained."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from tiny_models import TINY

from mmprune.commands.configured_input import input_of
from mmprune.commands.diagnose import network_and_pruner
from mmprune.config import enter_scope, load_config
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_model
from mmprune.randomness import stir
from mmprune.trace import Road
from mmprune.trace.roads import run_model

PYRAMID = {
    'model.backbone.widen_factor': 0.125,
    'model.neck.in_channels': [32, 64, 128],
    'model.neck.out_channels': 32,
    'model.bbox_head.in_channels': 32,
    'model.bbox_head.feat_channels': 32,
}
NARROW = {
    'retinanet': TINY['RetinaNet'][2],
    'faster-rcnn': TINY['Faster R-CNN'][2],
    'rtmdet': {**PYRAMID, 'model.backbone.init_cfg': None},
    'yolox': PYRAMID,
    'pspnet': TINY['PSPNet'][2],
    'segformer': {
        'model.backbone.embed_dims': 8,
        'model.backbone.init_cfg': None,
        'model.decode_head.in_channels': [8, 16, 40, 64],
        'model.decode_head.channels': 32,
    },
    'rtmpose': TINY['RTMPose'][2],
}
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FOLDERS = [CONFIGS / package for package in ('mmdet', 'mmseg', 'mmpose')]


def configs(prefix: str) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in folder.glob(f'{prefix}_*.py'))


def shape_of(path: Path) -> tuple[int, ...] | None:
    """Two small images; a pose estimator's codec says their size."""
    return None if path.parent.name == 'mmpose' else (2, 3, 64, 64)


def loss_of(network: torch.nn.Module, roads: list[Road]) -> dict[str, torch.Tensor]:
    """The losses of a training step."""
    road = next(road for road in roads if road.name == 'loss')
    assert road.pack is not None
    found = run_model(network.train(), road.pack(network, road.input))
    # A two-stage detector's comes with what its first stage computed.
    return dict(found[1] if isinstance(found, tuple) else found)


def narrow(path: Path, prefix: str = 'model') -> Config:
    """A config with few channels; ``prefix`` is where it has the full network."""
    options = next(options for name, options in NARROW.items() if name in path.stem)
    changed = {key.replace('model', prefix, 1): value for key, value in options.items()}
    return load_config(path, changed)


@pytest.mark.parametrize('path', configs('prune'), ids=lambda path: path.stem)
def test_pruned_deployed_and_taught(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three configs of a network: what one writes the next ones read."""
    monkeypatch.chdir(tmp_path)
    name = path.stem.removeprefix('prune_')
    cfg = narrow(path)
    cfg.pruner.round_to = 1
    network, pruner = network_and_pruner(cfg)
    plain = deepcopy(stir(network))
    roads = input_of(cfg, network, shape_of(path)).roads(network)
    pruner.prepare_from_supernet(network, roads)
    full = pruner.cost()['macs']
    pruner.prune()
    assert 0.45 * full < pruner.cost()['macs'] <= 0.5 * full
    assert pruner.verify_subnet().ok
    Path('pruned').mkdir()
    save_channel_cfg(pruner.export_subnet(), Path('pruned/channel_cfg.yaml'))
    small = pruner.deploy_subnet(network, pruner.export_subnet())

    deployed = build_model(narrow(path.with_name(f'deploy_{name}.py'), 'model.model'))
    sizes = {key: tensor.shape for key, tensor in small.state_dict().items()}
    assert {key: tensor.shape for key, tensor in deployed.state_dict().items()} == sizes

    cfg = narrow(path.with_name(f'finetune_{name}.py'), 'model.architecture.model')
    file = Path(cfg.model.teacher.checkpoint)
    file.parent.mkdir()
    torch.save({'state_dict': plain.state_dict()}, file)
    losses = loss_of(build_model(cfg), roads)
    for component in cfg.model.distiller.components:
        (loss,) = component.losses
        assert losses[f'{component.student_module}.{loss.type.lower()}_loss'] > 0


@pytest.mark.parametrize('path', configs('autoslim'), ids=lambda path: path.stem)
def test_a_supernet_is_trained(path: Path) -> None:
    cfg = narrow(path, 'model.architecture')
    cfg.model.input_shape = shape_of(path)
    algorithm = build_model(cfg)
    assert isinstance(algorithm, AutoSlim)
    network = algorithm.architecture
    loss = input_of(cfg, network, None).roads(network)[-1]
    optimizer = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.01))
    given = loss.pack(network, loss.input)
    losses = algorithm.train_step(given, optimizer)
    assert losses


SHAPES = [path for folder in FOLDERS for path in sorted(folder.glob('*_shapes.py'))]


@pytest.mark.parametrize('path', SHAPES, ids=lambda path: path.stem)
def test_configs_of_drawn_shapes_are_whole(path: Path) -> None:
    cfg = load_config(path)
    assert {'model', 'train_dataloader', 'optim_wrapper', 'test_evaluator'} <= cfg.keys()
    model = cfg.model.architecture.model if 'architecture' in cfg.model else cfg.model
    with enter_scope(cfg):
        assert MODELS.build(model) is not None
