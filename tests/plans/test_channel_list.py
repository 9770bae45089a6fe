"""Lists of widths: subnets by union, networks with sampled shortcuts, and what is refused."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from randomised import randomise
from small_network import images, new_pruner, nothing_changes, small_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.deploy.shortcuts import ChannelSample
from mmprune.errors import InputError
from mmprune.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'channel_lists'
WIDTHS = [5, 4, 6, 3, 8, 7, 9, 6, 12]
"""Two stages of two basic blocks; full widths are 8 five times, then 16 four times."""
PROJECTED = [*WIDTHS[:7], 10, *WIDTHS[7:]]


def original():
    backbone = dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,), strides=(1, 2),
                    dilations=(1, 1), base_channels=8, stem_channels=8)  # fmt: skip
    head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
    neck = dict(type='GlobalAveragePooling')
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head, _scope_='mmcls')


def resnet():
    return randomise(MODELS.build(original()).double()).eval()


def data():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64)


def prepared(model, inputs):
    pruner = new_pruner()
    pruner.prepare_from_supernet(model, inputs)
    return pruner


def count(model, inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    return counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters())


def by_hand(model, inputs, widths):
    """The sampled ResNet, computed from the full one's first weights."""
    import torch.nn.functional as F

    full = model.backbone

    def conv_norm(value, conv, norm, width):
        weight = conv.weight[:width, : value.shape[1]]
        value = F.conv2d(value, weight, None, conv.stride, conv.padding)
        parts = [t[:width] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        return F.batch_norm(value, *parts, eps=norm.eps)

    rest = iter(widths)
    value = conv_norm(inputs, full.conv1, full.bn1, next(rest)).relu()
    value = full.maxpool(value)
    indexes = iter(model.indexes)
    for stage in (full.layer1, full.layer2):
        for block in stage:
            inside = conv_norm(value, block.conv1, block.bn1, next(rest)).relu()
            width = next(rest)
            inside = conv_norm(inside, block.conv2, block.bn2, width)
            if block.downsample is not None:
                value = conv_norm(value, *block.downsample, width)
            elif value.shape[1] != width:
                value = value[:, next(indexes)]
            value = (inside + value).relu()
    pooled = value.mean((2, 3))
    return F.linear(pooled, model.head.fc.weight[:, : pooled.shape[1]], model.head.fc.bias)


def test_sampled_shortcuts_compute_what_the_list_says():
    model = resnet()
    plain = copy.deepcopy(model)
    pruner = prepared(model, data())
    with nothing_changes_in(model):
        cfg = pruner.channel_list_cfg(WIDTHS, residual='sample', seed=3)
        small = pruner.deploy_subnet(model, cfg)
    convs = [m for n, m in small.named_modules() if isinstance(m, nn.Conv2d) and 'down' not in n]
    assert [conv.out_channels for conv in convs] == WIDTHS
    samples = [m for m in small.modules() if isinstance(m, ChannelSample)]
    assert [len(sample.index) for sample in samples] == [6, 8, 12]
    plain.indexes = [sample.index for sample in samples]
    inputs = data()
    logits = small.head.fc(small.neck(small.backbone(inputs))[0])
    torch.testing.assert_close(logits, by_hand(plain, inputs, WIDTHS))
    # The first block widens its shortcut: all 5 channels, and one of them twice.
    assert samples[0].index[:5].tolist() == [0, 1, 2, 3, 4]
    # The same seed draws the same index.
    assert pruner.channel_list_cfg(WIDTHS, residual='sample', seed=3) == cfg


def nothing_changes_in(model):
    class Same:
        def __enter__(self):
            self.before = {k: v.clone() for k, v in model.state_dict().items()}

        def __exit__(self, *error):
            after = model.state_dict()
            assert after.keys() == self.before.keys()
            assert all(torch.equal(after[k], v) for k, v in self.before.items())

    return Same()


def test_a_projection_in_the_list_is_sampled_too():
    model = resnet()
    pruner = prepared(model, data())
    small = pruner.deploy_subnet(
        model, pruner.channel_list_cfg(PROJECTED, residual='sample', skip=())
    )
    projection = small.backbone.layer2[0].downsample
    assert projection[0].out_channels == 10
    assert len(projection[2].index) == 9
    assert torch.isfinite(small(data())).all()


def test_union_is_a_subnet_of_the_largest_widths():
    model = resnet()
    pruner = prepared(model, data())
    cfg = pruner.channel_list_cfg(WIDTHS, residual='union')
    subnet = pruner.load_channel_cfg(cfg)
    kept = {space_id: int(mask.sum()) for space_id, mask in subnet.items()}
    assert kept['backbone.conv1'] == max(5, 6, 8)
    assert kept['backbone.layer2.0.conv2'] == max(9, 12)
    assert kept['backbone.layer1.1.conv1'] == 3
    assert pruner.verify_subnet(model, subnet).ok


def test_depthwise_convolutions_have_the_width_of_what_they_read():
    model = MODELS.build(dict(type='MobileNetV1', channels=(8, 16, 12), strides=(2, 1, 2)))
    model = randomise(model.double()).eval()
    pruner = prepared(model, data())
    with pytest.raises(InputError, match=r"layer 'blocks.1.pointwise.0' 7 of 12 .* output of the"):
        pruner.channel_list_cfg([5, 9, 7])
    cfg = pruner.channel_list_cfg([5, 9, 12])
    small = pruner.deploy_subnet(model, cfg)
    assert small.blocks[0].depthwise[0].groups == 5
    assert small.blocks[1].depthwise[0].groups == 9
    assert pruner.verify_subnet(model, pruner.load_channel_cfg(cfg)).ok
    # Without a sum, nothing is sampled.
    assert pruner.channel_list_cfg([5, 9, 12], residual='sample') == cfg
    with pytest.raises(ValueError, match='3 channels, but 2 strides'):
        MODELS.build(dict(type='MobileNetV1', channels=(8, 16, 12), strides=(2, 1)))


@pytest.mark.parametrize('residual', ['union', 'sample'])
def test_save_reload_export_and_train(residual, tmp_path):
    model = resnet()
    pruner = prepared(model, data())
    cfg = pruner.channel_list_cfg(WIDTHS, residual=residual)
    small = pruner.deploy_subnet(model, cfg)
    save_channel_cfg(cfg, tmp_path / 'list.yaml')
    torch.save(small.state_dict(), tmp_path / 'list.pth')
    assert load_channel_cfg(tmp_path / 'list.yaml') == cfg
    again = MODELS.build(
        dict(type='DeployedModel', model=original(), channel_cfg=str(tmp_path / 'list.yaml'))
    )
    state = torch.load(tmp_path / 'list.pth', weights_only=True)
    again.double().load_state_dict(state)
    inputs = data()
    expected = small.eval()(inputs)
    torch.testing.assert_close(again.eval()(inputs), expected, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(small))(inputs), expected)
    exported = torch.jit.trace(small, inputs, check_trace=False)
    torch.testing.assert_close(exported(inputs), expected)
    again.train()
    optimizer = torch.optim.SGD(again.parameters(), 0.01)
    again(inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in again.backbone.parameters())
    optimizer.step()
    if residual == 'sample':
        assert torch.equal(
            again.backbone.layer1[0].downsample.index, small.backbone.layer1[0].downsample.index
        )


@pytest.mark.parametrize(
    ('name', 'shape', 'macs', 'parameters'),
    [
        ('amc_mobilenet-v1_4xb64_in1k.py', (1, 3, 224, 224), 284_862_328, 927_264),
        ('amc_resnet50_4xb64_in1k.py', (1, 3, 224, 224), 1_949_966_848, 7_530_160),
        ('channel-list_resnet-small_1xb64_digits.py', (1, 1, 8, 8), None, None),
    ],
)
def test_configs_build_networks_of_the_lists(name, shape, macs, parameters):
    cfg = load_config(CONFIGS / name)
    init_default_scope('mmcls')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    found = count(model, torch.randn(shape))
    if macs:
        assert found == (macs, parameters)
    channels = list(cfg.model.channels)[int(cfg.model.get('has_input', False)) :]
    convs = [
        module.out_channels
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
        if 'skip' in cfg.model or '.downsample.' not in name
    ]
    assert convs == channels


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(channels=[8, 4]), r"has 2 widths, the network 3 layers to list, \['stem.0', 'exp"),
        (dict(channels=[8, 13, 8]), "entry 1 of the list is 13, but layer 'expand' has from 1 to"),
        (dict(channels=[0, 4, 8]), "entry 0 of the list is 0, but layer 'stem.0' has from 1 to 8"),
        (dict(channels=[3, 8, 4, 0.5, 1], has_input=True, unused=1), 'entry 3 of the list is 0.5'),
        (dict(channels=[8, 4, 8], residual='cut'), "must be 'union' or 'sample', not 'cut'"),
        (dict(channels=[8, 4, 6], residual='sample'), "no block with a shortcut 'downsample'"),
    ],
)
def test_lists_that_do_not_fit(options, message):
    model = small_network()
    pruner = prepared(model, images())
    with nothing_changes(model, pruner), pytest.raises(InputError, match=message):
        pruner.channel_list_cfg(**options)


def test_a_pinned_layer_cannot_be_narrower():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).double()
    pruner = prepared(model, images())
    assert pruner.channel_list_cfg([5, 4])['0']['out_channels'] == 5
    with pytest.raises(InputError, match="layer '1' 3 of 4 channels, which cannot be chosen: out"):
        pruner.channel_list_cfg([5, 3])


def test_a_sampled_config_is_no_subnet_and_fits_only_blocks():
    model = resnet()
    pruner = prepared(model, data())
    cfg = pruner.channel_list_cfg(WIDTHS, residual='sample')
    with pytest.raises(InputError, match=r"'backbone.layer1.0': samples its shortcut, so this is"):
        pruner.load_channel_cfg(cfg)
    broken = copy.deepcopy(cfg)
    broken['backbone.conv1']['shortcut'] = {'raw': 4, 'index': [0]}
    with pytest.raises(InputError, match="a Conv2d has no attribute 'downsample'"):
        pruner.deploy_subnet(model, broken)
    broken = copy.deepcopy(cfg)
    broken['backbone.layer1.0']['shortcut']['index'][0] = 9
    with pytest.raises(InputError, match='shortcut: expected an index of channels below raw'):
        pruner.deploy_subnet(model, broken)


def test_the_list_of_resnet50_is_no_list_of_its_main_path_alone():
    cfg = load_config(CONFIGS / 'amc_resnet50_4xb64_in1k.py').model
    pruner = prepared(MODELS.build(dict(cfg.model, _scope_='mmcls')), torch.rand(1, 3, 64, 64))
    message = "entry 5 of the list is 240, but layer 'backbone.layer1.1.conv1' has from 1 to 64"
    with pytest.raises(InputError, match=message):
        pruner.channel_list_cfg(cfg.channels, has_input=True, unused=4)
