"""YOLOv5: the sizes that are known of it, and a real slimming run's list of channels."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from randomised import randomise, scattered
from yolov5s_slimming import CHANNELS, LAYERS, PARAMETERS

from mmprune.errors import InputError
from mmprune.registry import MODELS, PRUNERS

ROOT = Path(__file__).parents[2]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(dict(_scope_='mmprune', type='YOLOv5', **options))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ('options', 'parameters'),
    [
        (dict(), 7_235_389),
        (dict(num_classes=4), 7_030_417),
        (dict(width=0.25), 1_872_157),
        (dict(depth=0.67, width=0.75), 21_190_557),
    ],
)
def test_parameters_of_the_known_sizes(options, parameters):
    assert count(build(**options)) == parameters


def test_config_builds_yolov5s():
    cfg = Config.fromfile(ROOT / 'configs' / 'slimming' / 'yolov5s.py')
    assert count(MODELS.build(deepcopy(cfg.model))) == 7_235_389


def test_shapes_and_boxes():
    model = build(num_classes=4).eval()
    with torch.no_grad():
        raw = model(torch.rand(1, 3, 64, 96))
        assert [tuple(scale.shape) for scale in raw] == [
            (1, 3, 8, 12, 9),
            (1, 3, 4, 6, 9),
            (1, 3, 2, 3, 9),
        ]
        boxes = model.boxes([torch.zeros_like(scale) for scale in raw])
    assert boxes.shape == (1, 3 * (96 + 24 + 6), 9)
    # Where all raw numbers are 0, a box is its anchor in the middle of its cell.
    expected = torch.tensor([4.0, 4.0, 10.0, 13.0, 0.5])
    torch.testing.assert_close(boxes[0, 0, :5], expected)
    second_anchor_last_cell = boxes[0, 3 * (96 + 24) + 6 + 5, :4]
    torch.testing.assert_close(second_anchor_last_cell, torch.tensor([80.0, 48.0, 156.0, 198.0]))


@pytest.fixture(scope='module')
def prepared():
    model = randomise(build(num_classes=4).double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, IMAGES)
    return model, pruner


def test_the_tables_of_the_run_agree():
    """The layers that the run has printed have the channels that its list says."""
    assert len(CHANNELS) == 57
    assert (len(PARAMETERS), sum(PARAMETERS)) == (25, 1_580_316)
    for row in LAYERS:
        if row['module'] == 'Conv':
            before, after = CHANNELS[f'model.{row["index"]}.bn']
            assert json.loads(row['arguments'])[1] == after <= before


def test_list_of_a_real_run_gives_its_parameters_to_the_unit(prepared):
    model, pruner = prepared
    counts = {}
    for norm, (before, after) in CHANNELS.items():
        space_id = pruner.get_space_id(norm)
        assert pruner.channel_groups[space_id].num_channels == before
        # All norms of a residual sum say the same number.
        assert counts.setdefault(space_id, after) == after
    assert counts.keys() == pruner.channel_spaces.keys()
    scores = torch.Generator().manual_seed(0)
    subnet = {}
    for space_id, kept in counts.items():
        group = pruner.channel_groups[space_id]
        drawn = torch.rand(group.num_channels, generator=scores).numpy()
        mask = torch.from_numpy(group.select(drawn, kept)).double()
        subnet[space_id] = mask.reshape(pruner.channel_spaces[space_id].shape)
    pruner.set_subnet(subnet)
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert [count(layer) for layer in deployed.model] == PARAMETERS
    assert len(PARAMETERS) == 25
    assert pruner.cost()['params'] == count(deployed) == 1_580_316
    assert_same(model, deployed)
    pruner.set_max_channel()


def test_scattered_subnets_are_exact(prepared):
    model, pruner = prepared
    full = model(IMAGES)
    for seed in range(2):
        subnet = scattered(pruner, seed)
        assert pruner.verify_subnet(model, subnet).ok
        pruner.set_subnet(subnet)
        assert (model(IMAGES)[0] - full[0]).abs().max() > 0.01 * full[0].abs().max()
        assert_same(model, pruner.deploy_subnet(model, pruner.export_subnet()))
    pruner.set_max_channel()


def assert_same(model, deployed):
    with torch.no_grad():
        for ours, theirs in zip(model(IMAGES), deployed(IMAGES), strict=True):
            assert ours.std() > 0.1
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_residual_stream_is_one_group(prepared):
    _, pruner = prepared
    stream = pruner.channel_groups[pruner.get_space_id('model.6.cv1.bn')]
    assert [name for name in stream.layers if name.endswith('bn')] == [
        'model.6.cv1.bn',
        *(f'model.6.m.{number}.cv2.bn' for number in range(3)),
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(anchors=[[10, 13], [30, 61]]), 'anchors must be 3 lists .* found 2 lists'),
        (dict(anchors=[[10, 13, 5]] * 3), 'equally many pairs'),
        (dict(num_classes=0), 'at least 1 class .* num_classes=0'),
        (dict(width=0.0), 'factors above 0'),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)
