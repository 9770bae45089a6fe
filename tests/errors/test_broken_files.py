"""Channel config files that are broken: refused with the file's name, wherever they are read."""

import json

import pytest
import yaml
from small_network import new_pruner, nothing_changes, prepared, razor_cfg, small_network

from mmprune.deploy import ChannelCfgError, load_channel_cfg, save_channel_cfg
from mmprune.errors import InputError


@pytest.fixture(scope='module')
def exported():
    return prepared()[1].export_subnet()


def text_of(exported, path):
    save_channel_cfg(exported, path)
    return path.read_text()


def cuts(text):
    """Where to cut: at every line boundary, inside every line, and all over the last line."""
    ends = [i + 1 for i, character in enumerate(text) if character == '\n']
    starts = [0, *ends[:-1]]
    inside = [(start + end) // 2 for start, end in zip(starts, ends, strict=True)]
    last = range(starts[-1], len(text.rstrip()))
    return sorted({0, *starts, *(end - 1 for end in ends[:-1]), *inside, *last})


@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, exported, suffix):
    text = text_of(exported, tmp_path / f'whole.{suffix}')
    assert text.count('\n') >= 10
    path = tmp_path / f'part.{suffix}'
    for cut in cuts(text):
        path.write_text(text[:cut])
        with pytest.raises(ChannelCfgError, match=rf'part\.{suffix}: (broken or )?(cut off|is no)'):
            load_channel_cfg(path)
    path.write_text(text.rstrip())
    assert load_channel_cfg(path) == exported, 'the end of the last line is no loss'


@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_a_file_that_lacks_lines_in_the_middle_is_refused(tmp_path, exported, suffix):
    lines = text_of(exported, tmp_path / f'whole.{suffix}').splitlines()
    path = tmp_path / f'part.{suffix}'
    model = small_network()
    for first in range(len(lines)):
        path.write_text('\n'.join(lines[:first] + lines[first + 1 :]))
        with pytest.raises(InputError, match=r'part\.'):
            new_pruner().deploy_subnet(model, path)


@pytest.mark.parametrize('is_prepared', [True, False])
@pytest.mark.parametrize('flow', [True, False])
def test_a_file_of_mmrazor_that_is_cut_off_is_refused_by_the_model(tmp_path, flow, is_prepared):
    """It has no mark at its end: the layers that are missing tell."""
    model, pruner = prepared()
    if not is_prepared:
        model, pruner = small_network(), new_pruner()
    path = tmp_path / 'razor.yaml'
    # A layer takes several lines, as MMRazor writes it, or one.
    text = yaml.dump(razor_cfg(), default_flow_style=None if flow else False)
    path.write_text(text)
    pruner.deploy_subnet(model, path)
    for cut in cuts(text):
        path.write_text(text[:cut])
        with pytest.raises(ChannelCfgError, match=r'razor\.yaml: '):
            pruner.deploy_subnet(model, path)


def test_the_number_of_layers_that_are_left_is_told(tmp_path, exported):
    text = text_of(exported, tmp_path / 'subnet.yaml')
    start = text.index('norm:')
    (tmp_path / 'subnet.yaml').write_text(text[:start])
    with pytest.raises(
        ChannelCfgError, match=r'cut off after 4 of 8 layers.*"__end__: 8", and is missing'
    ):
        load_channel_cfg(tmp_path / 'subnet.yaml')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'is no channel config: empty instead of a mapping'),
        ('- a\n- b\n', 'is no channel config: a list'),
        ('just words\n', 'is no channel config: a str'),
        ('42\n', 'is no channel config: a int'),
        ('{}\n', 'lists no layer'),
        ('a: [1, 2\n', 'broken or cut off'),
        ('a: !!python/object/apply:os.getcwd []\n', 'broken or cut off'),
        ('a: 2001-99-99\n', 'broken or cut off'),
        ('{' * 900, 'broken or cut off'),
        ('__format__: something\na: {}\n', '__format__ is .something., not'),
        ('__format__: {name: other, version: 1}\n__end__: 0\n', '__format__ is .*other'),
        (
            '__format__: {name: mmprune channel config, version: 2, layers: 0}\n__end__: 0\n',
            'has format version 2, this mmprune reads version 1; update mmprune',
        ),
        ('a: {out_channels: 1, raw_out_channels: 2}\n__end__: 1\n', 'its beginning is missing'),
        ('0: {out_channels: 1, raw_out_channels: 2}\n', "layer '0': .*put its name in quotes"),
        ('channel_unit_cfg: {units: {}}\n', 'lists no unit'),
        ('channel_unit_cfg: 3\n', 'lists no unit'),
    ],
)
def test_files_that_are_something_else(tmp_path, text, message):
    path = tmp_path / 'subnet.yaml'
    path.write_text(text)
    model, pruner = prepared()
    with nothing_changes(model, pruner, tmp_path):
        for use in (
            lambda: pruner.load_channel_cfg(path),
            lambda: pruner.switch_subnet(path),
            lambda: pruner.deploy_subnet(model, path),
        ):
            with pytest.raises(ChannelCfgError, match=rf'subnet\.yaml: {message}'):
                use()


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / 'binary.yaml').write_bytes(b'\x80\x02\xff\xfe')
    (tmp_path / 'folder.yaml').mkdir()
    for name in ('binary.yaml', 'folder.yaml', 'missing.yaml'):
        with pytest.raises(InputError, match=rf'{name}: cannot be read as a channel config'):
            load_channel_cfg(tmp_path / name)


@pytest.mark.parametrize('value', [3, ['subnet.yaml', 'other.yaml'], b'subnet.yaml'])
def test_values_that_are_no_channel_config(value):
    model = small_network()
    with pytest.raises(ChannelCfgError, match='expected a channel config'):
        new_pruner().deploy_subnet(model, value)


ENTRY = {'out_channels': 2, 'raw_out_channels': 4}


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (None, 'expected a mapping, found None'),
        ([1, 2], r'expected a mapping, found \[1, 2\]'),
        ({}, 'says nothing'),
        ({**ENTRY, 'kernel': 3}, "'kernel' is not known here; there are 'in_channels'"),
        ({'out_channels': 2}, 'out_channels and raw_out_channels go together'),
        ({'raw_in_channels': 2}, 'in_channels and raw_in_channels go together'),
        ({**ENTRY, 'in_index': [0]}, 'in_channels and raw_in_channels go together'),
        ({**ENTRY, 'out_channels': 0}, 'keeps 0 of 4 channels; at least 1 must stay'),
        ({**ENTRY, 'out_channels': -1}, 'keeps -1 of 4 channels'),
        ({**ENTRY, 'out_channels': 5}, 'keeps 5 channels, but there are only 4'),
        ({**ENTRY, 'out_channels': 2.0}, 'out_channels: expected a whole number, found 2.0'),
        ({**ENTRY, 'out_channels': '2'}, "out_channels: expected a whole number, found '2'"),
        ({**ENTRY, 'out_channels': True}, 'out_channels: expected a whole number, found True'),
        (
            {**ENTRY, 'raw_out_channels': None},
            'raw_out_channels: expected a whole number, found None',
        ),
        ({**ENTRY, 'raw_out_channels': 10**13}, 'are more than any layer has'),
        ({**ENTRY, 'out_index': [0]}, 'keeps 2 channels, but its index lists 1'),
        ({**ENTRY, 'out_index': [0, 1, 2]}, 'keeps 2 channels, but its index lists 3'),
        ({**ENTRY, 'out_index': 2}, 'out_index: expected a list, found 2'),
        ({**ENTRY, 'out_index': [1, 4]}, 'its index has 4, which is no channel from 0 to 3'),
        ({**ENTRY, 'out_index': [-1, 1]}, 'its index has -1'),
        ({**ENTRY, 'out_index': [0, 1.0]}, r'out_index\[1\]: expected a whole number, found 1.0'),
        ({**ENTRY, 'out_index': [0, [1]]}, r'out_index\[1\]: expected a whole number, found \[1\]'),
        ({**ENTRY, 'out_index': [1, 1]}, 'its index names only 1 different'),
        ({'tensors': 3}, 'tensors: expected a mapping, found 3'),
        ({'tensors': {'w': 3}}, r'tensors\.w: expected a mapping, found 3'),
        ({'tensors': {'w': {'0': 3}}}, r'tensors\.w\.0: expected a mapping, found 3'),
        ({'tensors': {'w': {'x': {'kept': 1, 'raw': 2}}}}, "'x' names no dims"),
        ({'tensors': {'w': {'0': {'kept': 1}}}}, r'tensors\.w\.0: raw is missing'),
        ({'tensors': {'w': {'0': {'kept': 0, 'raw': 2}}}}, r'tensors\.w\.0: keeps 0 of 2'),
        ({'attributes': []}, r'attributes: expected a mapping, found \[\]'),
        ({'attributes': {'heads': 3}}, 'heads: expected a mapping, found 3'),
        ({'tensors': None}, 'tensors: expected a mapping, found None'),
        ({'attributes': {'heads': {'kept': 3}}}, r'attributes\.heads: raw is missing'),
        ({'attributes': {'heads': {'kept': 3, 'raw': 2}}}, 'heads: expected kept and raw sizes'),
        ({'attributes': {'heads': {'kept': [1], 'raw': [2, 2]}}}, 'expected kept and raw sizes'),
        ({'attributes': {'heads': {'kept': 'x', 'raw': 'x'}}}, 'expected a whole number or a list'),
    ],
)
@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_an_entry_that_makes_no_sense_is_told_with_its_layer(tmp_path, suffix, entry, message):
    path = tmp_path / f'subnet.{suffix}'
    entries = {'backbone.conv': entry}
    path.write_text(json.dumps(entries) if suffix == 'json' else yaml.dump(entries))
    with pytest.raises(
        ChannelCfgError, match=rf"subnet\.{suffix}: layer 'backbone.conv': .*{message}"
    ):
        load_channel_cfg(path)


def test_a_broken_config_is_not_written(tmp_path):
    path = tmp_path / 'subnet.yaml'
    path.write_text('old')
    with pytest.raises(ChannelCfgError, match="layer 'a': out_channels: keeps 0 of 4"):
        save_channel_cfg({'a': {**ENTRY, 'out_channels': 0}}, path)
    assert path.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['subnet.yaml']
