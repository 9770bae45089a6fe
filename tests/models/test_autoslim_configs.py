"""Every config of a supernet builds, and has something to prune."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from mmprune.config import load_config
from mmprune.registry import LOOPS, MODEL_WRAPPERS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SUPERNETS = sorted(
    str(path.relative_to(CONFIGS))
    for folder in ('autoslim', 'demo')
    for path in (CONFIGS / folder).glob('*.py')
    if '-subnet' not in path.name
)


@pytest.mark.parametrize('name', SUPERNETS)
def test_a_config_builds_its_supernet(name: str) -> None:
    cfg = load_config(CONFIGS / name)
    init_default_scope('mmcls')
    algorithm = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    groups = algorithm.pruner.channel_groups
    pinned = [space_id for space_id, group in groups.items() if not group.prunable]
    assert len(pinned) <= 2, pinned
    full = algorithm.pruner.cost(algorithm.pruner.current_subnet())
    algorithm.pruner.set_min_channel()
    narrowest = algorithm.pruner.cost(algorithm.pruner.current_subnet())
    ratio = min(cfg.model.pruner.ratios)
    # Two sides of every layer are narrower, but for the first's input and the last's output.
    assert narrowest['macs'] < 1.5 * ratio**2 * full['macs'] + 0.05 * full['macs']
    assert MODEL_WRAPPERS.get(cfg.model_wrapper_cfg.type) is not None
    if 'search_cfg' in cfg:
        assert LOOPS.get(cfg.search_cfg.type) is not None


def test_the_cost_of_the_full_mobilenet() -> None:
    cfg = load_config('autoslim_mobilenet-v2_1.5x_8xb256_in1k.py')
    init_default_scope('mmcls')
    algorithm = MODELS.build(cfg.model).eval()
    counted = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # Every output number is a sum over one filter.
        counted.append(output.numel() * module.weight[0].numel())

    for module in algorithm.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        algorithm(torch.rand(1, 3, 224, 224))
    pruner = algorithm.pruner
    assert pruner.cost(pruner.current_subnet())['macs'] == sum(counted)


def test_the_subnets_config_is_the_plain_network(tmp_path: Path) -> None:
    from mmprune.deploy.channel_cfg import save_channel_cfg

    supernet = load_config('autoslim_mobilenet-v2_1.5x_8xb256_in1k.py')
    init_default_scope('mmcls')
    pruner = MODELS.build(supernet.model).pruner
    pruner.set_min_channel()
    save_channel_cfg(pruner.export_subnet(), tmp_path / 'subnet.yaml')
    cfg = load_config(
        'autoslim-subnet_mobilenet-v2_1.5x_8xb256_in1k.py',
        {'model.channel_cfg': str(tmp_path / 'subnet.yaml')},
    )
    model = MODELS.build(cfg.model)
    num_params = sum(value.numel() for value in model.parameters())
    assert num_params == pruner.cost(pruner.current_subnet())['params']
