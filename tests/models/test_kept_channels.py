"""Which channels of a module's outputs a subnet has: masked, they are the deployed network's."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from small_classifiers import SMALL, pooled
from torch import Tensor, nn

from mmprune.deploy import ChannelCfg
from mmprune.errors import InputError
from mmprune.models.kept_channels import kept_by_config, kept_channels
from mmprune.randomness import seeded, stir
from mmprune.registry import MODELS, PRUNERS
from mmprune.trace import Road
from mmprune.trace.calls import tensors_in

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
NETWORKS: dict[str, dict[str, Any]] = {
    'residuals': pooled(dict(type='ResNet', depth=18, stem_channels=8, base_channels=8), 64),
    'shuffles': pooled(dict(type='ShuffleNetV2', widen_factor=0.5), 1024),
    'concatenations': pooled(
        dict(type='DenseNet', arch=dict(growth_rate=4, depths=[2, 2], init_channels=8)), 16
    ),
    'class token': SMALL['class token, position embedding'],
}


def outputs_of(network: nn.Module, run: Any) -> dict[str, list[Tensor]]:
    """What every module puts out in a pass, call after call."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    handles = [
        module.register_forward_hook(
            lambda m, i, output, name=name: found[name].extend(
                t.clone() for t in tensors_in(output)
            )
        )
        for name, module in network.named_modules()
    ]
    with torch.no_grad():
        run(network)
    for handle in handles:
        handle.remove()
    return found


def build(kind: str) -> nn.Module:
    init_default_scope('mmcls')
    with seeded(0):
        network = stir(MODELS.build(NETWORKS[kind]).double())
    network.eval()
    return network


@pytest.mark.parametrize('kind', NETWORKS)
def test_kept_channels_are_those_of_the_deployed_network(kind: str) -> None:
    network = build(kind)
    names = [name for name, _ in network.named_modules()]
    pruner = PRUNERS.build(
        dict(
            type='RatioPruner',
            ratios=[0.5],
            importance=dict(type='RandomImportance', seed=1),
            execution='mask',
        )
    )
    pruner.prepare_from_supernet(network, IMAGE)
    with seeded(0):
        pruner.set_subnet(pruner.sample_subnet())
    supernet = pruner.supernet
    small = pruner.deploy_subnet(network)
    masked, deployed = (outputs_of(net, lambda net: net(IMAGE)) for net in (network, small))
    kept = kept_channels(supernet.labelling, supernet.alive, names)
    known, cut = 0, 0
    for name in deployed:
        cuts = kept[name] if len(kept[name]) == len(deployed[name]) else [None]
        for full, tensor, each in zip(masked[name], deployed[name], cuts, strict=False):
            if each is None:
                continue
            known += 1
            cut += bool(each)
            for dim, index in each.items():
                full = full.index_select(dim, index)
            torch.testing.assert_close(full, tensor, msg=lambda text, name=name: f'{name}: {text}')
    assert known > 0.9 * sum(map(len, deployed.values()))
    assert cut > 0.5 * len(deployed)

    cfg = ChannelCfg(pruner.export_subnet())
    plain = build(kind)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    again = kept_by_config(plain, Road('eval', IMAGE), cfg, names)
    torch.testing.assert_close(again, kept, rtol=0, atol=0)
    torch.testing.assert_close(dict(plain.state_dict()), state, rtol=0, atol=0)
    other = MODELS.build(dict(type='ResNet', depth=34)).double()
    with pytest.raises(InputError):
        kept_by_config(other, Road('eval', IMAGE), cfg, names)
