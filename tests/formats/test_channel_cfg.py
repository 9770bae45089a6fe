"""Channel configs: written, read and deployed without a trace, to the same numbers."""

import copy
import json

import pytest
import torch
import yaml
from randomised import randomise, scattered
from small_network import (
    INSIDE,
    LAYERS,
    STEM,
    images,
    new_pruner,
    prepared,
    razor_cfg,
    small_network,
)
from torch import nn

from mmprune.deploy import load_channel_cfg, save_channel_cfg
from mmprune.errors import InputError
from mmprune.zoo import zeroed

FORMATS = pytest.mark.parametrize('name', ['subnet.yaml', 'subnet.yml', 'subnet.json'])


@FORMATS
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_a_fresh_network_deployed_from_a_file_computes_what_the_supernet_does(tmp_path, name, seed):
    fresh = small_network()
    model, pruner = prepared(seed)
    for mask in pruner.current_subnet().values():
        assert not mask.flatten()[: int(mask.sum())].all(), 'keeps the first channels'
    save_channel_cfg(pruner.export_subnet(), tmp_path / name)
    deployed = new_pruner().deploy_subnet(fresh, tmp_path / name)
    with torch.no_grad():
        ours, theirs = model(images()), deployed(images())
        independent = zeroed(fresh, load_channel_cfg(tmp_path / name))(images())
    assert theirs.abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(independent, theirs, rtol=1e-10, atol=1e-12)


@FORMATS
def test_what_was_written_is_read(tmp_path, name):
    _, pruner = prepared()
    exported = pruner.export_subnet()
    save_channel_cfg(exported, tmp_path / name)
    assert load_channel_cfg(tmp_path / name) == exported
    loaded = pruner.load_channel_cfg(tmp_path / name)
    for space_id, mask in pruner.current_subnet().items():
        assert torch.equal(loaded[space_id], mask)


def test_the_file_names_its_format_first_and_counts_its_layers_last(tmp_path):
    _, pruner = prepared()
    save_channel_cfg(pruner.export_subnet(), tmp_path / 'subnet.yaml')
    lines = (tmp_path / 'subnet.yaml').read_text().splitlines()
    assert lines[0].startswith('__format__: {name: mmprune channel config, version: 1, layers: 8')
    assert lines[-1] == '__end__: 8'
    entries = yaml.safe_load('\n'.join(lines))
    assert set(entries) == {*LAYERS, 'scale', '__format__', '__end__'}
    assert entries['__format__']['model_layers'] == len(LAYERS)


def test_entries_are_those_of_mmrazor_and_say_which_channels(tmp_path):
    _, pruner = prepared()
    subnet = pruner.current_subnet()
    stem, inside = (subnet[i].flatten().nonzero().flatten().tolist() for i in (STEM, INSIDE))
    exported = pruner.export_subnet()
    assert exported['expand'] == {
        'in_channels': 4,
        'raw_in_channels': 8,
        'in_index': stem,
        'out_channels': 6,
        'raw_out_channels': 12,
        'out_index': inside,
    }
    assert exported['norm'] == {'out_channels': 6, 'raw_out_channels': 12, 'out_index': inside}
    assert exported['stem.0']['in_channels'] == 3
    assert 'in_index' not in exported['stem.0'], 'all of them'
    assert exported['scale'] == {'tensors': {'gamma': {'0': {'kept': 4, 'raw': 8, 'index': stem}}}}


@FORMATS
def test_layers_that_are_called_by_numbers(tmp_path, name):
    """A YAML key 0 would be read as a number."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())
    model = randomise(model.double())
    fresh = copy.deepcopy(model)
    pruner = new_pruner()
    pruner.prepare_from_supernet(model, images())
    pruner.set_subnet(scattered(pruner))
    save_channel_cfg(pruner.export_subnet(), tmp_path / name)
    deployed = new_pruner().deploy_subnet(fresh, tmp_path / name)
    assert deployed[0].out_channels == 4
    torch.testing.assert_close(deployed(images()), model(images()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('is_prepared', [True, False])
@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_a_file_of_mmrazor_0_keeps_the_first_channels(tmp_path, suffix, is_prepared):
    path = tmp_path / f'razor.{suffix}'
    entries = razor_cfg(stem=3, inside=7)
    path.write_text(yaml.dump(entries) if suffix == 'yaml' else json.dumps(entries))
    pruner, model = new_pruner(), small_network()
    if not is_prepared:
        # It says nothing about the scale, which no trace means no way to know.
        del model.scale
        model.scale = nn.Identity()
    original = copy.deepcopy(model)
    if is_prepared:
        pruner.prepare_from_supernet(model, images())
    deployed = pruner.deploy_subnet(model, path)
    assert deployed.stem[0].out_channels == deployed.depthwise.groups == 3
    assert deployed.norm.num_features == 7
    assert torch.equal(deployed.reduce.weight, original.reduce.weight[:3, :7])
    with torch.no_grad():
        if is_prepared:
            assert deployed.scale.gamma.shape == (3, 1, 1)
            pruner.switch_subnet(path)
            expected = model(images())
        else:
            expected = zeroed(original, entries)(images())
        torch.testing.assert_close(deployed(images()), expected, rtol=1e-10, atol=1e-12)


UNITS = {
    'stem.0_(0, 8)_8': {'init_args': {'num_channels': 8}, 'choice': 3},
    'expand_(0, 12)_12': {'init_args': {'num_channels': 12}, 'choice': 7},
}


def unit_file(path, **choices):
    units = copy.deepcopy(UNITS)
    for unit, choice in choices.items():
        units[{'stem': 'stem.0_(0, 8)_8', 'inside': 'expand_(0, 12)_12'}[unit]]['choice'] = choice
    entries = {
        'type': 'DMCPChannelMutator',
        'channel_unit_cfg': {'type': 'DMCPChannelUnit', 'units': units},
    }
    path.write_text(json.dumps(entries) if path.suffix == '.json' else yaml.dump(entries))
    return path


@pytest.mark.parametrize('name', ['units.json', 'units.yaml'])
def test_a_unit_file_of_mmrazor_1(tmp_path, name):
    path = unit_file(tmp_path / name)
    model, pruner = prepared()
    deployed = pruner.deploy_subnet(model, path)
    assert deployed.stem[0].out_channels == 3
    assert deployed.norm.num_features == 7
    assert deployed.scale.gamma.shape == (3, 1, 1)
    pruner.switch_subnet(path)
    with torch.no_grad():
        torch.testing.assert_close(deployed(images()), model(images()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ('choice', 'kept'),
    [(0.5, 6), (0.54, 6), (0.01, 1), (7 / 12, 7), (1.0, 12), (1, 1), (12, 12)],
)
def test_choices_of_mmrazor_1_are_numbers_or_shares_rounded_down(tmp_path, choice, kept):
    _, pruner = prepared()
    subnet = pruner.load_channel_cfg(unit_file(tmp_path / 'units.json', inside=choice))
    assert subnet[INSIDE].flatten().tolist() == [1.0] * kept + [0.0] * (12 - kept)


def test_a_choice_beyond_all_channels_means_all(tmp_path, capfd):
    """DMCP writes such: 693 of 576 in its MobileNetV2."""
    _, pruner = prepared()
    subnet = pruner.load_channel_cfg(unit_file(tmp_path / 'units.json', inside=14))
    assert subnet[INSIDE].all()
    printed = ''.join(capfd.readouterr())
    assert "units.json: layer 'expand_(0, 12)_12': chooses 14 channels, all 12 stay" in printed


def test_units_that_name_only_some_groups_are_of_another_network(tmp_path):
    path = unit_file(tmp_path / 'units.json')
    content = json.loads(path.read_text())
    content['channel_unit_cfg']['units'].pop('stem.0_(0, 8)_8')
    path.write_text(json.dumps(content))
    _, pruner = prepared()
    with pytest.raises(InputError, match=r"'stem\.0': no unit has its .* 1 of the 2 groups"):
        pruner.load_channel_cfg(path)


def test_layers_beside_units_are_refused(tmp_path):
    path = unit_file(tmp_path / 'units.json')
    content = {**json.loads(path.read_text()), 'norm': {'out_channels': 3, 'raw_out_channels': 12}}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="'norm': stands beside channel_unit_cfg"):
        load_channel_cfg(path)


class Sized(nn.Module):
    """Stores a number that is a size of channels, and one that is none."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
        self.width, self.times = 8, 3

    def forward(self, x):
        return self.times * self.fc(self.conv(x).mean((2, 3)).view(-1, self.width))


@pytest.mark.parametrize(
    ('layer', 'attributes', 'message'),
    [
        ('', None, r"'': has the attributes None, but .*'width'.* are left"),
        ('', {'width': {'kept': 5, 'raw': 8}}, "'width': {'kept': 5, .*'kept': 4"),
        ('', {'times': {'kept': 2, 'raw': 3}}, "'times': .*'kept': 4"),
        ('conv', {'padding': {'kept': [1, 1], 'raw': [1, 1]}}, 'has the attributes'),
    ],
)
def test_attributes_are_what_is_left_of_them(layer, attributes, message):
    model = randomise(Sized().double()).eval()
    pruner = new_pruner()
    pruner.prepare_from_supernet(model, images())
    pruner.set_subnet(scattered(pruner, 0))
    cfg = pruner.export_subnet()
    assert cfg['']['attributes'] == {'width': {'kept': 4, 'raw': 8}}
    pruner.load_channel_cfg(copy.deepcopy(cfg))
    if attributes is None:
        cfg['']['attributes'] = {'width': {'kept': 8, 'raw': 8}}
        message = message.replace('None', '.*')
    else:
        cfg[layer]['attributes'] = attributes
    with pytest.raises(InputError, match=message):
        pruner.load_channel_cfg(cfg)


def test_settings_of_torchs_layers_are_no_sizes():
    """Without a trace too."""
    model = small_network()
    cfg = prepared()[1].export_subnet()
    cfg['stem.0']['attributes'] = {'padding': {'kept': [1, 1], 'raw': [1, 1]}}
    with pytest.raises(InputError, match=r"'stem\.0': 'padding' of a Conv2d is no size"):
        new_pruner().deploy_subnet(model, cfg)
