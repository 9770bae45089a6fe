from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcls.models import ImageClassifier
from mmengine.registry import init_default_scope

from mmprune.config import load_config
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.models import AutoSlim
from mmprune.models.deployed import without_pretrained
from mmprune.registry import MODELS

Build = Callable[..., AutoSlim]
CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


def deployed(channel_cfg: Any, **settings: Any) -> ImageClassifier:
    cfg = load_config(CONFIG)
    init_default_scope('mmcls')
    return MODELS.build(
        dict(
            type='mmprune.DeployedModel',
            model=cfg.model.architecture,
            channel_cfg=channel_cfg,
            data_preprocessor=cfg.data_preprocessor,
            **settings,
        )
    )


def test_it_is_the_plain_network_with_fewer_channels(build: Build, tmp_path: Path) -> None:
    supernet = build().eval()
    supernet.pruner.set_subnet(supernet.pruner.sample_subnet())
    layers = supernet.pruner.export_subnet()
    save_channel_cfg(layers, tmp_path / 'subnet.yaml')

    network = deployed(str(tmp_path / 'subnet.yaml'))

    assert type(network) is ImageClassifier
    plain = supernet.pruner.deploy_subnet(supernet.architecture, layers).state_dict()
    assert network.state_dict().keys() == plain.keys()
    network.load_state_dict(plain)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(network.eval()(images), supernet(images))
    # The preprocessor of the config is the network's.
    torch.testing.assert_close(network.data_preprocessor.mean, supernet.data_preprocessor.mean)


def test_it_initialises_and_trains(build: Build, batch: Callable[..., dict[str, Any]]) -> None:
    supernet = build()
    supernet.pruner.set_min_channel()
    network = deployed(supernet.pruner.export_subnet())
    network.init_weights()
    data = network.data_preprocessor(batch(8, seed=0), True)
    network(**data, mode='loss')['loss'].backward()
    assert all(value.grad.shape == value.shape for value in network.parameters())


def test_a_channel_config_of_another_network_is_refused(build: Build) -> None:
    layers = build().pruner.export_subnet()
    layers['backbone.conv1'] = {
        **layers['backbone.conv1'],
        'out_channels': 4,
        'raw_out_channels': 16,
    }
    with pytest.raises(ValueError, match=r'backbone.conv1.*16.*8'):
        deployed(layers)


def test_weights_of_the_full_network_are_not_loaded() -> None:
    config = {
        'type': 'ImageClassifier',
        'pretrained': 'full.pth',
        'backbone': {
            'type': 'ResNet',
            'init_cfg': {'type': 'Pretrained', 'checkpoint': 'full.pth'},
        },
        'head': {'init_cfg': [{'type': 'Normal'}, {'type': 'Pretrained'}], 'topk': (1, 5)},
    }
    assert without_pretrained(config) == {
        'type': 'ImageClassifier',
        'backbone': {'type': 'ResNet'},
        'head': {'init_cfg': [{'type': 'Normal'}], 'topk': (1, 5)},
    }
