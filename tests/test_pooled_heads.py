"""Attention whose heads lie along the batch while a convolution pools them (MViT)."""

import pytest
import torch
from torch import nn

from mmprune.registry import PRUNERS


class PooledHeads(nn.Module):
    """Queries, keys and values of every head go through one depthwise convolution and norm."""

    def __init__(self):
        super().__init__()
        self.heads, self.width = 4, 32
        self.embed, self.qkv = nn.Conv2d(3, 24, 1), nn.Linear(24, 96)
        self.pool = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(3))
        self.norm = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.proj, self.head = nn.Linear(32, 24), nn.Linear(24, 2)
        self.scale = 8**-0.5

    def pooled(self, x, number, batch):
        x = x.reshape(batch * self.heads, 4, 4, -1).permute(0, 3, 1, 2)
        x = self.pool[number](x).flatten(2).transpose(1, 2)
        return self.norm[number](x.reshape(batch, self.heads, 16, -1))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        batch = len(x)
        heads = self.qkv(x).reshape(batch, 16, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = (self.pooled(part, i, batch) for i, part in enumerate(heads.unbind(0)))
        scores = (query * self.scale) @ key.transpose(-2, -1)
        result = scores.softmax(-1) @ value + query
        x = x + self.proj(result.transpose(1, 2).reshape(batch, 16, self.width))
        return self.head(x.mean(1))


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize(
    ('attention', 'kept'),
    [('heads', dict(heads=2, width=16, pool=8)), ('dims', dict(heads=4, width=16, pool=4))],
)
def test_heads_or_their_dims_are_pruned_through_the_convolution(attention, kept, execution):
    torch.manual_seed(0)
    model = PooledHeads().double().eval()
    data = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(
        dict(
            type='RatioPruner',
            ratios=[0.5],
            importance=dict(type='RandomImportance', seed=0),
            attention=attention,
            execution=execution,
        )
    )
    pruner.prepare_from_supernet(model, data)
    pruner.set_min_channel()
    report = pruner.verify_subnet(subnet=pruner.current_subnet())
    assert report.ok, report
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert deployed.heads == kept['heads']
    assert deployed.width == deployed.proj.in_features == kept['width']
    assert deployed.qkv.out_features == 3 * kept['width']
    assert {conv.groups for conv in deployed.pool} == {kept['pool']}
    assert {norm.normalized_shape for norm in deployed.norm} == {(kept['pool'],)}
    torch.testing.assert_close(model(data), deployed(data))
    counted = sum(parameter.numel() for parameter in deployed.parameters())
    assert pruner.cost()['params'] == counted
