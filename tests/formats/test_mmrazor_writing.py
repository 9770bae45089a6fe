"""Files of MMRazor, written: what is read back is the same subnet, and the same file."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mmcls.registry import MODELS
from randomised import randomise, scattered
from small_network import images, new_pruner, small_network
from torch import nn

from mmprune.deploy import ChannelCfgError

FOLDER = Path(__file__).parents[3] / 'shared' / 'data' / 'mmrazor'
of_mmrazor = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f'the files of MMRazor are not at {FOLDER}'
)


class Residual(nn.Module):
    """A stem, a block and a convolution that is never run."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.reduce = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.fc, self.unused = nn.Linear(8, 5), nn.Conv2d(4, 6, 1)

    def forward(self, data):
        data = self.norm(self.stem(data)).relu()
        data = data + self.reduce(self.expand(data).relu())
        return self.fc(data.mean((2, 3)))


def prepared(model=None, inputs=None):
    model = model or randomise(Residual().double()).eval()
    pruner = new_pruner()
    pruner.prepare_from_supernet(model, images() if inputs is None else inputs)
    return model, pruner


def same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(mask, second[space_id]) for space_id, mask in first.items())


@pytest.mark.parametrize('name', ['subnet.yaml', 'subnet.json'])
@pytest.mark.parametrize('version', ['0.x', '1.x'])
def test_what_is_written_is_read_back(name, version, tmp_path):
    model, pruner = prepared()
    subnet = pruner.subnet_of_counts({'stem': 5, 'expand': 7})
    pruner.set_subnet(subnet)
    pruner.save_mmrazor(tmp_path / name, version)
    other, again = prepared()
    same(again.load_channel_cfg(tmp_path / name), subnet)
    expected = pruner.deploy_subnet(model, pruner.export_subnet())(images())
    torch.testing.assert_close(again.deploy_subnet(other, tmp_path / name)(images()), expected)
    if version == '0.x':  # needs no trace, for it lists layers that never run too
        plain = randomise(Residual().double()).eval()
        deployed = new_pruner().deploy_subnet(plain, tmp_path / name)
        torch.testing.assert_close(deployed(images()), expected)


def test_the_contents():
    _, pruner = prepared()
    pruner.set_subnet(pruner.subnet_of_counts({'stem': 5, 'expand': 7}))
    entries = pruner.export_mmrazor('0.x')
    assert entries['expand'] == dict(
        in_channels=5, out_channels=7, raw_in_channels=8, raw_out_channels=12
    )
    assert entries['norm'] == dict(out_channels=5, raw_out_channels=8)
    assert entries['unused']['out_channels'] == 6
    content = pruner.export_mmrazor('1.x')
    units = content['channel_unit_cfg']['units']
    assert {name: unit['choice'] for name, unit in units.items()} == {
        'stem_(0, 8)_8': 5, 'expand_(0, 12)_12': 7
    }  # fmt: skip
    assert units['stem_(0, 8)_8']['init_args']['num_channels'] == 8


def classifier(channels, **backbone):
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=channels)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head, _scope_='mmcls')
    return MODELS.build(model).eval()


@of_mmrazor
def test_a_file_of_0x_comes_out_as_it_went_in(tmp_path):
    file = FOLDER / 'AUTOSLIM_MBV2_320M_OFFICIAL.yaml'
    model = classifier(1920, type='MobileNetV2', widen_factor=1.5)
    _, pruner = prepared(model, torch.randn(1, 3, 64, 64))
    pruner.switch_subnet(file)
    pruner.save_mmrazor(tmp_path / 'again.yaml')
    assert yaml.safe_load((tmp_path / 'again.yaml').read_text()) == yaml.safe_load(file.read_text())


@of_mmrazor
def test_a_file_of_1x_comes_out_with_the_same_units(tmp_path):
    file = FOLDER / 'DMCP_R50_2G.json'
    _, pruner = prepared(classifier(2048, type='ResNet', depth=50), torch.randn(1, 3, 64, 64))
    pruner.switch_subnet(file)
    pruner.save_mmrazor(tmp_path / 'again.json', '1.x')

    def choices(path):
        units = json.loads(path.read_text())['channel_unit_cfg']['units']
        sizes = {name: unit['init_args']['num_channels'] for name, unit in units.items()}
        return sorted((sizes[n], min(unit['choice'], sizes[n])) for n, unit in units.items())

    assert choices(tmp_path / 'again.json') == choices(file)
    same(pruner.load_channel_cfg(tmp_path / 'again.json'), pruner.current_subnet())


def test_what_the_formats_cannot_say_is_refused(tmp_path):
    _, pruner = prepared()
    pruner.set_subnet(scattered(pruner))
    path = tmp_path / 'subnet.yaml'
    with pytest.raises(ChannelCfgError, match=r"layer 'stem': keeps other than the first 4 of 8"):
        pruner.save_mmrazor(path)
    with pytest.raises(ChannelCfgError, match=r"group 'stem': keeps other than the first 4 of 8"):
        pruner.save_mmrazor(path, '1.x')
    with pytest.raises(ChannelCfgError, match=r"version must be one of .* not '2'"):
        pruner.save_mmrazor(path, '2')
    _, pruner = prepared(small_network())
    pruner.set_min_channel()
    with pytest.raises(ChannelCfgError, match="layer 'scale': gamma is cut too"):
        pruner.save_mmrazor(path)
    assert not path.exists()


def test_a_group_that_is_no_range_of_outputs_is_no_unit():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 4, 1))
    _, pruner = prepared(model.double())
    assert pruner.channel_spaces['0'].numel() == 2
    with pytest.raises(ChannelCfgError, match="'0': its 2 channels are no range of outputs"):
        pruner.export_mmrazor('1.x')
