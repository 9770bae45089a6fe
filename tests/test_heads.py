"""Heads, or channels of heads: how much goes, and that it is exact, whichever is asked for."""

import pytest
import torch
import toys_attention
import toys_attention_of_images
import toys_heads
import toys_layouts
from randomised import randomise, scattered
from torch import nn
from toy_checks import prepared

from mmprune.registry import PRUNERS

FAMILIES = [toys_heads, toys_layouts, toys_attention, toys_attention_of_images]
TOYS = [toy for family in FAMILIES for toy in family.TOYS]
KEPT = {
    'NonLocal': 0.41, 'ConvBlockAttention': 0.36, 'ExternalOfImages': 0.37, 'Efficient': 0.43,
    'Agents': 0.36, 'LinearAttention': 0.35, 'TransposedAttention': 0.34, 'CrissCross': 0.32,
}  # fmt: skip
"""Share of the parameters that is kept at ratio 0.5, at most; of all others 0.31."""
BY_HEADS_ONLY = {'TalkingHeads', 'KernelAttention'}


def share(model, pruner):
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    return sum(p.numel() for p in deployed.parameters()) / sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize('attention', ['heads', 'dims'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_random_subnets_are_exact_and_small(toy, attention):
    if attention == 'dims' and toy.__name__ in BY_HEADS_ONLY:
        pytest.skip('its channels cannot be told from its heads')
    model, _, pruner = prepared(toy, attention=attention)
    for seed in range(4):
        subnet = scattered(pruner, seed)
        report = pruner.verify_subnet(subnet=subnet)
        assert report.ok, report
    pruner.set_subnet(subnet)
    assert share(model, pruner) <= KEPT.get(toy.__name__, 0.31)


class Torchs(nn.Module):
    """torch's attention of one head, in a stream."""

    def __init__(self, need_weights, **options):
        super().__init__()
        self.need_weights, self.is_crossed = need_weights, 'kdim' in options
        self.a, self.attention = nn.Linear(6, 12), nn.MultiheadAttention(12, 1, **options)
        self.other = nn.Linear(6, options.get('kdim', 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        key = self.other(x)
        x = self.a(x)
        key = key if self.is_crossed else x
        return self.head(x + self.attention(x, key, key, need_weights=self.need_weights)[0])


@pytest.mark.parametrize(
    'options', [{}, {'bias': False}, {'batch_first': True}, {'kdim': 9, 'vdim': 9}]
)
@pytest.mark.parametrize('need_weights', [False, True])
@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_one_head_of_torch_scales_by_what_is_kept(options, need_weights, execution):
    model = randomise(Torchs(need_weights, **options).double()).eval()
    data = torch.randn(5, 3, 6, dtype=torch.float64)
    settings = dict(type='RatioPruner', ratios=[0.5], execution=execution)
    pruner = PRUNERS.build(settings)
    pruner.prepare_from_supernet(model, data)
    for seed in range(3):
        subnet = scattered(pruner, seed)
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        assert (deployed.attention.embed_dim, deployed.attention.num_heads) == (6, 1)
        assert deployed.attention.head_dim == 6
        torch.testing.assert_close(model(data), deployed(data), rtol=1e-10, atol=1e-12)
    assert share(model, pruner) < 0.4
