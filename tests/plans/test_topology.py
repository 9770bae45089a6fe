"""The topology of networks, and pruning restricted to it."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from randomised import scattered
from small_network import images, new_pruner, nothing_changes, small_network
from torch import nn

from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.registry import MODELS

SMALL = dict(
    norm_layer_names=[['stem.1'], ['norm']],
    prec_layers=[['stem.0', 'depthwise', 'reduce'], ['expand']],
    succ_layers=[['depthwise', 'expand', 'fc'], ['reduce']],
)


def fresh(model=None, data=None, **options):
    model, pruner = model or small_network(), new_pruner(**options)
    pruner.prepare_from_supernet(model, images() if data is None else data)
    return model, pruner


def resnet():
    backbone = dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,), strides=(1, 2),
                    dilations=(1, 1), base_channels=8, stem_channels=8)  # fmt: skip
    head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head, _scope_='mmcls')
    return MODELS.build(model).double().eval()


def test_a_small_network():
    _, pruner = fresh()
    topology = pruner.topology()
    assert topology.to_dict() == SMALL
    assert not topology.left_out


def test_the_residual_stream_of_a_resnet_is_one_entry():
    data = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    _, pruner = fresh(resnet(), data)
    topology = pruner.topology()
    stream = next(i for i, names in enumerate(topology.prec_layers) if 'backbone.conv1' in names)
    assert topology.norm_layer_names[stream] == [
        'backbone.bn1', 'backbone.layer1.0.bn2', 'backbone.layer1.1.bn2'
    ]  # fmt: skip
    assert topology.prec_layers[stream] == [
        'backbone.conv1', 'backbone.layer1.0.conv2', 'backbone.layer1.1.conv2'
    ]  # fmt: skip
    assert topology.succ_layers[stream] == [
        'backbone.layer1.0.conv1', 'backbone.layer1.1.conv1', 'backbone.layer2.0.conv1',
        'backbone.layer2.0.downsample.0',
    ]  # fmt: skip
    second = topology.prec_layers.index(
        ['backbone.layer2.0.conv2', 'backbone.layer2.0.downsample.0', 'backbone.layer2.1.conv2']
    )
    assert topology.succ_layers[second] == ['backbone.layer2.1.conv1', 'head.fc']
    assert len(topology.prec_layers) == 6


def test_what_is_left_out_is_said():
    data = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    _, pruner = fresh(resnet(), data)
    topology = pruner.topology(leave_out=['strided'])
    assert topology.left_out == {
        'backbone.conv1': "left out by 'strided': backbone.conv1 has stride 2x2",
        'backbone.layer2.0.conv1': (
            "left out by 'strided': backbone.layer2.0.conv1 has stride 2x2"
        ),
        'backbone.layer2.0.conv2': (
            "left out by 'strided': backbone.layer2.0.downsample.0 has stride 2x2"
        ),
    }
    assert "left out backbone.conv1: left out by 'strided'" in str(topology)
    # As options of the pruner they pin.
    _, pruner = fresh(resnet(), data, leave_out=['strided'])
    assert list(pruner.channel_spaces) == [
        'backbone.layer1.0.conv1', 'backbone.layer1.1.conv1', 'backbone.layer2.1.conv1'
    ]  # fmt: skip
    reason = pruner.channel_groups['backbone.conv1'].reason
    assert reason == "left out by 'strided': backbone.conv1 has stride 2x2"
    assert reason in pruner.report()


def test_grouped_convolutions_are_left_out_and_depthwise_ones_are_not():
    def network():
        return nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 6, 1),
            nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 4, 1),
        ).double()  # fmt: skip

    _, pruner = fresh(network(), leave_out='grouped')
    assert list(pruner.channel_spaces) == ['2']
    assert pruner.topology().prec_layers == [['2', '3']]
    _, pruner = fresh(network())
    left_out = pruner.topology(leave_out=['grouped']).left_out
    assert left_out['0'] == "left out by 'grouped': 1 has 2 groups"


@pytest.mark.parametrize('name', ['topology.yaml', 'topology.json'])
def test_a_saved_topology_restricts(name, tmp_path):
    _, pruner = fresh()
    path = tmp_path / name
    topology = pruner.topology()
    topology.save(path)
    model, same = fresh(topology=path)
    assert list(same.channel_spaces) == list(pruner.channel_spaces)
    assert same.topology() == topology
    only = {key: lists[1:] for key, lists in SMALL.items()}
    model, less = fresh(topology=only)
    assert list(less.channel_spaces) == ['expand']
    assert less.channel_groups['stem.0'].reason == 'not listed in topology'
    subnet = scattered(less)
    assert less.verify_subnet(model, subnet).ok
    # A config file may hold it.
    file = tmp_path / 'config.py'
    file.write_text(f'pruner = dict(ratios=[0.5, 1.0], topology={str(path)!r})')
    _, by_config = fresh(**Config.fromfile(file).pruner)
    assert list(by_config.channel_spaces) == list(pruner.channel_spaces)


def entry(norms=('norm',), makers=('expand',), readers=('reduce',)):
    lists = (norms, makers, readers)
    return dict(zip(SMALL, [[list(names)] for names in lists], strict=True))


@pytest.mark.parametrize(
    ('topology', 'message'),
    [
        (entry(makers=['nowhere']), "topology: entry 0: no traced layer 'nowhere'"),
        (
            entry(['stem.1'], ['stem.0', 'depthwise']),
            "entry 0 lists 3 layers, but group 'stem.0' has the channels of 4: 'reduce' shares",
        ),
        (
            entry(['norm'], ['expand', 'reduce']),
            "entry 0 lists 3 layers, but group 'expand' has the channels of 2: 'reduce' does not",
        ),
        (entry([], []), 'entry 0 names no layer'),
    ],
)
def test_a_topology_of_another_network_is_refused(topology, message):
    model, pruner = small_network(), new_pruner(topology=topology)
    with nothing_changes(model), pytest.raises(InputError, match=message):
        pruner.prepare_from_supernet(model, images())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(topology=dict(prec_layers=[])), 'norm_layer_names is missing'),
        (dict(topology={**SMALL, 'prec_layers': [[]]}), "'prec_layers': 1, .* run in parallel"),
        (dict(topology={**SMALL, 'prec_layers': ['a', 'b']}), r'prec_layers\[0\]: expected a list'),
        (dict(topology='nowhere.yaml'), r'nowhere\.yaml: cannot be read as a topology'),
        (dict(leave_out=['stride']), "leave_out: 'stride' is none of strided, grouped"),
    ],
)
def test_broken_options(options, message):
    with pytest.raises(InputError, match=message):
        new_pruner(**options)
    _, pruner = fresh()
    with pytest.raises(InputError, match='is none of strided'):
        pruner.topology(leave_out=['other'])


def test_a_broken_file(tmp_path):
    path = tmp_path / 'topology.yaml'
    path.write_text('prec_layers: [')
    with pytest.raises(InputError, match=r'topology\.yaml: broken or cut off'):
        new_pruner(topology=path)


def test_the_config_leaves_strided_convolutions_alone():
    cfg = load_config('autoslim-unstrided_resnet-small_1xb64_digits.py')
    init_default_scope('mmcls')
    algorithm = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    assert 'backbone.layer2.0.conv1' not in algorithm.pruner.channel_spaces
    assert 'backbone.layer2.1.conv1' in algorithm.pruner.channel_spaces
