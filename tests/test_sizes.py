"""Numbers that modules store: mended where they are sizes of channels, pinned where unknown."""

import pytest
import torch
import torch.nn.functional as F
from mmcls.models.backbones.mobileone import MobileOneBlock
from mmcls.models.backbones.repvgg import RepVGGBlock
from randomised import randomise, scattered
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.testing import check_network


def prepared(model, data, **kwargs):
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], **kwargs))
    pruner.prepare_from_supernet(model, data)
    return pruner


class Attention(nn.Module):
    """Multi-head attention as vision transformers write it; inner width apart from the residual."""

    def __init__(self, width=12, heads=3, dims=4):
        super().__init__()
        self.num_heads, self.head_dims, self.inner_width = heads, dims, heads * dims
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * self.inner_width)
        self.table = nn.Parameter(torch.randn(heads, 16, 16))
        self.proj = nn.Linear(self.inner_width, width)
        self.scale = dims**-0.5

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.num_heads, self.head_dims)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * self.scale + self.table).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(batch, tokens, self.inner_width)
        return x + self.proj(y)


class AttentionOfInput(Attention):
    """Takes the width of a head from its input, so that inner and residual width are one."""

    def forward(self, x):
        batch, tokens, width = x.shape
        shape = (batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return x + self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):
    def __init__(self, attention=Attention):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 2, 2)
        self.attention = attention()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x).mean(1))


def check(model, data, pruner):
    for seed in range(3):
        subnet = scattered(pruner, seed)
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, str(report)
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        torch.testing.assert_close(deployed(data), model(data), rtol=1e-10, atol=1e-12)
        assert pruner.cost()['params'] == sum(p.numel() for p in deployed.parameters())
        pruner.set_max_channel()
    return deployed


@pytest.mark.parametrize(('how', 'channels'), [('heads', 3), ('dims', 24)])
def test_attention_loses_heads_or_dims(how, channels):
    torch.manual_seed(0)
    model = randomise(Transformer().double()).eval()
    data = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = prepared(model, data, attention=how)
    assert pruner.channel_groups['embed'].prunable
    group = pruner.channel_groups['attention.qkv']
    assert (group.prunable, group.num_channels) == (True, channels)
    deployed = check(model, data, pruner)
    inner = deployed.attention
    assert inner.num_heads * inner.head_dims == inner.inner_width == inner.proj.in_features < 12
    assert (inner.num_heads < 3) is (how == 'heads')
    assert (inner.head_dims < 4) is (how == 'dims')
    assert inner.scale == model.attention.scale
    assert inner.table.shape[0] == inner.num_heads


def test_sizes_that_a_module_computes_from_each_other_shrink_alike():
    torch.manual_seed(0)
    model = randomise(Transformer(AttentionOfInput).double()).eval()
    data = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = prepared(model, data)
    deployed = check(model, data, pruner)
    assert deployed.embed.out_channels == deployed.attention.proj.in_features < 12


class Literal(nn.Module):
    """Views its channels by a number that stands in the code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.c, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        x = self.b(self.a(x).relu())
        x = x.reshape(len(x), 8, -1).softmax(-1).reshape(len(x), 8, *x.shape[2:])
        return self.head(self.c(x).mean((2, 3)))


def test_a_number_in_the_code_pins_its_groups_with_that_reason_and_nothing_else():
    torch.manual_seed(0)
    model = randomise(Literal().double()).eval()
    data = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = prepared(model, data)
    assert {s for s, g in pruner.channel_groups.items() if g.prunable} == {'a', 'c'}
    assert 'counts 8 of them in its code' in pruner.channel_groups['b'].reason
    check(model, data, pruner)


@pytest.mark.parametrize(
    'block',
    [
        lambda: RepVGGBlock(8, 8),
        lambda: MobileOneBlock(8, 8, 3, 2, padding=1, groups=8),
        lambda: MobileOneBlock(8, 12, 3, 2, padding=1),
    ],
    ids=['RepVGG', 'MobileOne depthwise', 'MobileOne'],
)
def test_reparameterised_after_deployment(block):
    torch.manual_seed(0)
    body = block()
    width = body.out_channels
    model = nn.Sequential(nn.Conv2d(3, 8, 3), body, nn.Conv2d(width, 4, 1))
    model = randomise(model.double()).eval()
    data = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = prepared(model, data)
    deployed = check(model, data, pruner)
    expected = deployed(data)
    deployed[1].switch_to_deploy()
    torch.testing.assert_close(deployed(data), expected, rtol=1e-9, atol=1e-12)


def test_torch_multihead_attention_loses_whole_heads():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(6, 12)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
            self.head = nn.Linear(12, 4)

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.attention(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    model = randomise(Net().double()).eval()
    data = torch.randn(2, 5, 6, dtype=torch.float64)
    pruner = prepared(model, data)
    deployed = check(model, data, pruner)
    assert deployed.attention.num_heads < 3
    assert deployed.attention.embed_dim == 4 * deployed.attention.num_heads
    assert deployed.embed.out_features == deployed.attention.embed_dim


class Named(nn.Module):
    """Gives all that it computes with by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x):
        x = self.a(x)
        batch, channels, *_ = x.shape
        x = F.conv2d(input=x, weight=self.b.weight, groups=channels)
        kernels = F.adaptive_avg_pool2d(input=x, output_size=3).reshape(batch * channels, 1, 3, 3)
        x = torch.reshape(input=x, shape=(1, batch * channels, *x.shape[2:]))
        x = F.conv2d(input=x, weight=kernels, groups=batch * channels)
        x = torch.unflatten(input=x, dim=1, sizes=(batch, channels))[0]
        return self.c(torch.narrow(input=x, dim=3, start=0, length=4))


def test_arguments_may_be_given_by_name():
    found = check_network(Named(), torch.randn(2, 3, 8, 8), subnets=1)
    assert found.groups == {'a': 8}
