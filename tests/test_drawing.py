"""The picture of the groups: which lines it has, where lanes run, and that it is a valid SVG."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pruned_network import prepared
from torch import nn

from mmprune.channels import ChannelGroup, EqualBlocks
from mmprune.report.drawing import Picture, Row, Run, Share, draw
from mmprune.report.drawing.body import BAR
from mmprune.report.drawing.lanes import PALETTE, PINNED, lanes_of
from mmprune.report.drawing.rows import MAX_RUNS, NO_GROUP, runs_of
from mmprune.report.drawing.svg import clean, text_colour
from mmprune.report.drawing.tree import cells_of, split_names
from mmprune.report.findings import find
from mmprune.report.picture import picture_of

SVG = '{http://www.w3.org/2000/svg}'


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, 6, 1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, width, 1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc((self.layer1(self.stem(x)) * self.scale).cumprod(3).mean((2, 3)))


class Known(Residual):
    def forward(self, x):
        return self.fc((self.layer1(self.stem(x)) * self.scale).mean((2, 3)))


def shown(model, **options):
    model, pruner = prepared(model, **options)
    return picture_of(pruner.supernet, find(pruner.supernet), 'title'), pruner


def group(space_id='a', channels=4, reason='', constraints=()):
    return ChannelGroup(space_id, np.arange(channels), (space_id,), (), (), constraints, reason)


def picture(rows, groups, alarms=()):
    return Picture(
        'title', ['fact'], alarms, [Share('parameters', 0.25, 'a quarter')], rows, groups
    )


def parsed(text):
    root = ElementTree.fromstring(text)
    assert root.tag == f'{SVG}svg'
    return root


def texts(root):
    return [element.text for element in root.iter(f'{SVG}text')]


def titles(root):
    return [element.text for element in root.iter(f'{SVG}title')]


# -- rows ------------------------------------------------------------------------------


def test_rows_are_layers_in_order_of_execution_with_their_groups():
    drawn, pruner = shown(Known())
    index = {space_id: number for number, space_id in enumerate(pruner.channel_groups)}
    stream, inner = Run(index['stem'], 8), Run(index['layer1.0.conv1'], 6)
    assert [(row.name, row.norm) for row in drawn.rows] == [
        ('stem', ''),
        ('layer1.0.conv1', 'bn1'),
        ('layer1.0.conv2', 'bn2'),
        ('layer1.1.conv1', 'bn1'),
        ('layer1.1.conv2', 'bn2'),
        ('scale', ''),
        ('fc', ''),
    ]
    rows = {row.name: row for row in drawn.rows}
    assert rows['stem'].reads == (Run(index['stem.weight'], 3),)
    assert rows['stem'].makes == (stream,)
    assert (rows['layer1.0.conv1'].reads, rows['layer1.0.conv1'].makes) == ((stream,), (inner,))
    assert (rows['layer1.0.conv2'].reads, rows['layer1.0.conv2'].makes) == ((inner,), (stream,))
    assert (rows['scale'].reads, rows['scale'].makes) == ((), (stream,))
    assert rows['scale'].kind == 'parameter 1x8x1x1'
    assert rows['fc'].makes == (Run(index['fc'], 4),)


def test_operations_without_parser_have_a_row_where_they_ran():
    drawn, _ = shown(Residual())
    (unknown,) = [row for row in drawn.rows if row.is_unknown]
    assert (unknown.name, unknown.kind) == ('', 'CumprodBackward0: no parser')
    names = [row.name for row in drawn.rows]
    assert names.index('scale') < names.index('') < names.index('fc')
    root = parsed(draw(drawn))
    assert 'CumprodBackward0: no parser' in texts(root)
    assert any('operation without parser: CumprodBackward0' in text for text in texts(root))


def test_concatenated_inputs_and_kinds_of_convolutions():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 6, 3, stride=2)
            self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
            self.c = nn.Conv2d(14, 4, 1)

        def forward(self, x):
            return self.c(torch.cat([self.depthwise(self.a(x)), self.b(x)], 1))

    drawn, pruner = shown(Joined())
    index = {space_id: number for number, space_id in enumerate(pruner.channel_groups)}
    rows = {row.name: row for row in drawn.rows}
    assert rows['c'].reads == (Run(index['a'], 8), Run(index['b'], 6))
    assert rows['a'].kind == 'Conv2d 3x3 /2'
    assert rows['depthwise'].kind == 'Conv2d 1x1 depthwise'
    assert rows['depthwise'].passes
    assert not rows['c'].passes


def test_runs():
    assert runs_of(np.array([2, 2, 0, -1, -1, 2])) == (Run(2, 2), Run(0, 1), Run(-1, 2), Run(2, 1))
    shuffled = runs_of(np.arange(4 * MAX_RUNS) % 3)
    assert shuffled == tuple(Run(number, 4 * MAX_RUNS // 3) for number in range(3))
    assert runs_of(np.array([], int)) == ()


# -- the tree of modules ---------------------------------------------------------------


def test_names_are_split_into_blocks_and_layers():
    names = [
        'backbone.conv1',
        'backbone.layer1.0.conv1',
        'backbone.layer1.0.conv2',
        'backbone.layer1.1.conv1',
        'backbone.layer1.1.downsample.0',
        'backbone.stages.0.blocks.0.attn.w_msa.qkv',
        'backbone.stages.0.blocks.0.attn.w_msa.proj',
        'backbone.stages.0.blocks.1.norm',
        'head.layers.head',
    ]
    assert split_names(names) == [
        ('backbone', 'conv1'),
        ('backbone', 'layer1', '0', 'conv1'),
        ('backbone', 'layer1', '0', 'conv2'),
        ('backbone', 'layer1', '1', 'conv1'),
        ('backbone', 'layer1', '1', 'downsample.0'),
        ('backbone', 'stages.0', 'blocks.0', 'attn.w_msa.qkv'),
        ('backbone', 'stages.0', 'blocks.0', 'attn.w_msa.proj'),
        ('backbone', 'stages.0', 'blocks.1.norm'),
        ('head.layers.head',),
    ]
    cells = [(cell.name, cell.first, cell.last) for cell in cells_of(split_names(names))]
    assert cells == [
        ('backbone', 0, 7),
        ('backbone.layer1', 1, 4),
        ('backbone.stages.0', 5, 7),
        ('backbone.layer1.0', 1, 2),
        ('backbone.layer1.1', 3, 4),
        ('backbone.stages.0.blocks.0', 5, 6),
    ]


def test_a_name_is_its_columns_joined_and_modules_that_come_back_get_a_second_cell():
    names = ['a.x.0.p', 'a.x.0.q', 'b', 'a.x.0.r', 'a.y']
    split = split_names(names)
    assert ['.'.join(parts) for parts in split] == names
    assert [(c.name, c.first, c.last) for c in cells_of(split)][:2] == [('a', 0, 1), ('a', 3, 4)]


# -- lanes -----------------------------------------------------------------------------


def test_a_lane_runs_from_the_first_to_the_last_row_and_knows_what_they_do():
    rows = [
        Row('stem', '', (), (Run(0, 8),)),
        Row('norm', '', (Run(0, 8),), (Run(0, 8),)),
        Row('inside', '', (Run(0, 8),), (Run(1, 6),)),
        Row('back', '', (Run(1, 6),), (Run(0, 8),)),
        Row('head', '', (Run(0, 8),), (Run(2, 4), Run(NO_GROUP, 2))),
    ]
    groups = [group('stem'), group('inside'), group('head', reason='output')]
    lanes = lanes_of(rows, groups)
    stream = lanes[0]
    assert (stream.first, stream.last) == (0, 4)
    assert (stream.makes, stream.passes, stream.reads) == ((0, 3), (1,), (2, 4))
    assert stream.is_shared
    assert not lanes[1].is_shared
    assert (lanes[1].makes, lanes[1].reads) == ((2,), (3,))
    assert lanes[2].colour == PINNED
    assert lanes.keys() == {0, 1, 2}


@pytest.mark.parametrize('seed', range(5))
def test_lanes_in_one_column_do_not_meet_and_neighbours_differ_in_colour(seed):
    random = np.random.default_rng(seed)
    count = 30
    rows = [
        Row(str(i), '', (Run(int(random.integers(max(i, 1))), 4),), (Run(i, 4),))
        for i in range(count)
    ]
    lanes = list(lanes_of(rows, [group(str(i)) for i in range(count)]).values())
    assert len(lanes) == count
    for one in lanes:
        for other in lanes:
            if one.group < other.group and one.first <= other.last and other.first <= one.last:
                assert one.column != other.column
    inside = [lane for lane in lanes if lane.last - lane.first <= 1]
    for one, other in pairwise(inside):
        if other.first - one.last <= 1:
            assert one.colour != other.colour


@pytest.mark.parametrize('colour', [*PALETTE, PINNED])
def test_numbers_can_be_read_on_every_colour(colour):
    def luminance(text):
        shares = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted([luminance(colour), luminance(text_colour(colour))], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


# -- the file --------------------------------------------------------------------------


def test_every_layer_and_group_is_in_the_picture_with_its_reason_and_members(tmp_path):
    model, pruner = prepared(Known())
    pruner.draw(tmp_path / 'groups.svg', title='A & B')
    root = parsed((tmp_path / 'groups.svg').read_text(encoding='utf-8'))
    written = texts(root)
    assert written[0] == 'A & B'
    for name in ('stem', 'conv1 + bn1', 'conv2 + bn2', 'scale', 'fc'):
        assert name in written
    for space_id in pruner.channel_groups:
        assert space_id in written
    assert 'no: output of the network' in written
    hover = titles(root)
    assert any('pinned: output of the network' in title for title in hover)
    assert any('made by stem, layer1.0.conv2' in title for title in hover)
    params = sum(p.numel() for p in model.parameters())
    assert any(f'% of {params:,} prunable; half of every group keeps ' in text for text in written)
    assert [path.name for path in tmp_path.iterdir()] == ['groups.svg']


def test_groups_are_told_by_number_too_not_by_colour_alone():
    drawn, pruner = shown(Known())
    root = parsed(draw(drawn))
    numbers = {str(number + 1) for number in range(len(pruner.channel_groups))}
    assert numbers <= set(texts(root))


def test_bars_are_as_long_as_their_channels_are_many():
    rows = [Row('a', '', (), (Run(0, 100),)), Row('b', '', (Run(0, 100),), (Run(1, 25),))]
    root = parsed(draw(picture(rows, [group('a', 100), group('b', 25, reason='held')])))

    def lengths(number):
        marked = [g for g in root.iter(f'{SVG}g') if g.get('class') == f'g c{number}']
        found = [r for g in marked for r in g.findall(f'{SVG}rect') if r.get('height') == '9']
        return [(float(r.get('width')), r.get('fill')) for r in found]

    assert [length for length, _ in lengths(0)] == [BAR, BAR]
    assert lengths(1) == [(BAR / 4, PINNED), (BAR / 4, 'url(#hatch)')]


def test_inputs_that_are_far_wider_than_all_outputs_end_in_a_point():
    rows = [Row('a', '', (), (Run(0, 10),)), Row('fc', '', (Run(0, 10_000),), (Run(1, 10),))]
    root = parsed(draw(picture(rows, [group('a', 10), group('fc', 10)])))
    bars = [float(r.get('width')) for r in root.iter(f'{SVG}rect') if r.get('height') == '9']
    assert max(bars) <= BAR
    assert len(list(root.iter(f'{SVG}polygon'))) == 1
    assert '10000' in texts(root)


def test_names_and_reasons_are_escaped_and_what_xml_cannot_hold_is_replaced():
    name, reason = 'a<b>&"c"\'', 'failed: <tag> & \x1b[31mred\x00 ]]>'
    rows = [Row(name, 'Odd<T>', (), (Run(0, 4),))]
    groups = [group(name, reason=reason, constraints=(EqualBlocks(np.eye(2, dtype=int), '<&>'),))]
    text = draw(picture(rows, groups, alarms=['<alarm> &']))
    root = parsed(text)
    assert name in texts(root)
    assert '<alarm> &' in texts(root)
    assert f'no: {clean(reason)}' in texts(root)
    assert '\x1b' not in text
    assert '\x00' not in text
    assert clean('a\x00b\ud800c\n') == 'a\ufffdb\ufffdc\n'


def test_long_reasons_go_on_in_the_next_line_and_everything_is_inside_of_the_picture():
    reason = 'because ' * 60
    rows = [Row('a', 'Conv2d', (), (Run(0, 4),))]
    root = parsed(draw(picture(rows, [group('a', reason=reason.strip())])))
    parts = [text for text in texts(root) if 'because' in text]
    assert len(parts) > 3
    assert ' '.join(parts) == f'no: {reason.strip()}'
    width, height = float(root.get('width')), float(root.get('height'))
    for text in root.iter(f'{SVG}text'):
        assert 0 < float(text.get('x')) < width
        assert 0 < float(text.get('y')) < height


def test_a_network_without_layers_is_drawn_too():
    root = parsed(draw(picture([], [])))
    assert texts(root)[0] == 'title'


def test_the_picture_needs_nothing_from_elsewhere():
    drawn, _ = shown(Known())
    text = draw(drawn)
    assert not re.search(r'<(image|script|use|foreignObject)', text)
    assert re.findall(r'https?://[^"\s]+', text) == ['http://www.w3.org/2000/svg']
    assert set(re.findall(r'url\(([^)]*)\)', text)) == {'#hatch'}
