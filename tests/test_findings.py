"""What the report says: everything that was traced, not followed, pinned, and what it costs."""

import json

import numpy as np
import pytest
import torch
from pruned_network import prepared
from torch import nn

from mmprune.channels.labels import kept
from mmprune.cost.terms import volume
from mmprune.registry import BACKWARD_PARSERS
from mmprune.report.findings import NUMBERED, find
from mmprune.report.report import percent


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Riddles(nn.Module):
    """An operation without parser, a parameter that is never used, channels that are free."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), nn.Conv2d(6, 4, 1)
        self.unused = conv(8, 2)

    def forward(self, x):
        return self.c(self.b(self.a(x)).cumprod(3).cumprod(2))


@pytest.fixture(scope='module')
def riddles():
    return prepared(Riddles())


def test_findings_say_what_was_traced(riddles):
    found = find(riddles[1].supernet)
    assert found.model == 'Riddles'
    assert found.nodes == len(riddles[1].supernet.graph.nodes)
    assert found.calls == 4  # three layers and the root
    assert found.operations == {'conv': 3}
    assert found.layers == 3


def test_findings_name_operations_without_parser_and_the_class_of_their_modules(riddles):
    (unknown,) = find(riddles[1].supernet).unknown
    assert (unknown.operation, unknown.lacks, unknown.times) == ('CumprodBackward0', 'parser', 2)
    assert [str(place) for place in unknown.places] == ['the root module (Riddles)']
    text = riddles[1].report()
    assert (
        'operation without parser: CumprodBackward0 in the root module (Riddles); 2 times' in text
    )


def test_findings_name_operations_that_a_parser_knows_and_no_rule(monkeypatch):
    BACKWARD_PARSERS.import_from_location()
    parsers = {**BACKWARD_PARSERS.module_dict, 'CumprodBackward': lambda grad_fn: ('riddle', {})}
    monkeypatch.setattr(BACKWARD_PARSERS, '_module_dict', parsers)
    _, pruner = prepared(Riddles())
    (unknown,) = find(pruner.supernet).unknown
    assert (unknown.operation, unknown.lacks, unknown.times) == ('riddle', 'channel rule', 2)
    assert 'operation without channel rule: riddle in the root module' in pruner.report()
    assert not pruner.channel_groups['b'].prunable


def test_findings_say_which_parameters_are_not_reached_and_whether_their_module_ran(riddles):
    ((why, names),) = find(riddles[1].supernet).unreached.items()
    assert names == ('unused.weight', 'unused.bias')
    assert why.endswith('no road ran its module')
    assert 'parameters not reached (2): unused.weight, unused.bias: ' in riddles[1].report()


def test_a_clean_network_is_said_to_be_clean():
    _, pruner = prepared()
    text = pruner.report()
    assert 'every operation has a parser and a channel rule' in text
    assert 'every parameter is reached' in text


def test_the_report_lists_members_and_constraints_of_every_group():
    _, pruner = prepared()
    tail = pruner.report().split('members of every group')[1]
    for group in pruner.channel_groups.values():
        assert f'\n{group.space_id} ({group.num_channels} channels)' in tail
        assert {member.tensor for member in group.members} <= set(member_names(tail))
        for constraint in group.constraints:
            assert constraint.reason in tail
    assert '  both_norm (makes): ' in tail
    assert '  grouped (reads): weight[0, 1]' in tail
    assert 'equally many in 2 blocks of 7' in tail
    assert 'members of every group' not in pruner.report(members=False)


def member_names(text):
    """Tensors that the lines of members name."""
    for line in text.splitlines():
        if line.startswith('  ') and ': ' in line and 'blocks of' not in line:
            owner, _, names = line.strip().partition(': ')
            for name in names.replace(', 1]', ']').split(', '):
                yield f'{owner.partition(" (")[0]}.{name.partition("[")[0]}'


def test_members_of_a_part_of_a_tensor_say_how_much_of_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(3, 6), nn.Conv2d(14, 4, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    _, pruner = prepared(Two())
    assert 'c (reads): weight[1 8 of 14]' in pruner.report()
    assert 'c (reads): weight[1 6 of 14]' in pruner.report()


# -- shares ----------------------------------------------------------------------------


def test_prunable_shares_by_hand():
    """Of a(3->8), b(8->6) and c(6->4), 3 and 4 stay, so all but c's bias can go."""
    model = nn.Sequential(conv(3, 8), conv(8, 6), nn.Conv2d(6, 4, 1))
    _, pruner = prepared(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    found = find(pruner.supernet)
    full = 3 * 8 * 9 + 8 + 8 * 6 * 9 + 6 + 6 * 4 + 4
    assert (found.full.params, found.prunable.params) == (full, full - 4)
    assert found.prunable_params == (full - 4) / full
    assert found.prunable_macs == 1


def test_prunable_shares_of_a_network_that_is_pinned_in_the_middle(riddles):
    """a (3->8) is free; b (8->6) loses inputs only; c (6->4) and the unused layer nothing."""
    found = find(riddles[1].supernet)
    free = 3 * 8 * 9 + 8 + 8 * 6 * 9
    assert found.prunable.params == free
    assert found.full.params == free + 6 + (6 * 4 + 4) + (8 * 2 * 9 + 2)
    assert found.prunable.macs == 64 * 2 * (3 * 8 * 9 + 8 * 6 * 9)
    assert found.full.macs - found.prunable.macs == 64 * 2 * 6 * 4


def test_prunable_parameters_are_counted_to_the_element():
    model, pruner = prepared(except_start_keys=['left', 'fc'])
    supernet, expected = pruner.supernet, 0
    alive = np.ones(supernet.size, bool)
    for group in pruner.channel_groups.values():
        alive[group.labels] = not group.prunable
    for name, parameter in model.named_parameters():
        fixed = np.ones(parameter.shape, bool)
        for factor in supernet.labelling.tensors[name]:
            fixed &= kept(alive, factor)
        expected += int((~fixed).sum())
    assert 0 < expected < sum(p.numel() for p in model.parameters())
    assert find(supernet).prunable.params == expected


def test_elements_under_labels_of_which_some_share_a_dim():
    alive = np.array([True, False, True, True, True, False, False, *[True, False] * 6])
    rows, columns = np.arange(3)[:, None, None], np.arange(3, 7)[None, :, None]
    both = np.arange(7, 19).reshape(3, 4, 1)
    assert volume('', (3, 4, 5), [rows, columns]).value(alive) == 2 * 2 * 5
    expected = int((alive[rows] & alive[columns] & alive[both]).sum()) * 5
    assert volume('', (3, 4, 5), [rows, columns, both]).value(alive) == expected > 0
    assert volume('', (3, 4, 5), []).value(alive) == 60


@pytest.mark.parametrize(
    ('share', 'text'),
    [(0.0, '0.00%'), (1.0, '100.00%'), (0.5, '50.00%'), (0.9999999, '99.99%'), (1e-9, '0.01%')],
)
def test_a_share_is_all_or_nothing_only_if_it_is(share, text):
    assert percent(share) == text


def test_what_a_pinned_group_costs_is_what_halving_it_would_save():
    model = nn.Sequential(conv(3, 8), conv(8, 6), nn.Conv2d(6, 4, 1))
    data = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    _, free = prepared(model, data)
    _, pinned = prepared(model, data, except_start_keys=['1'])
    held = next(p for p in find(pinned.supernet).pinned if p.reason.startswith('excluded'))
    assert held.groups == ('1',)
    before, after = find(pinned.supernet).half, find(free.supernet).half
    assert held.params == before.params - after.params > 0
    assert held.macs == before.macs - after.macs > 0
    line = f'halving it too would save {held.params:,} ('
    assert any(line in text and "except_start_keys '1'" in text for text in lines(pinned))


def test_reasons_that_differ_in_the_number_of_a_block_are_one():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.back = conv(8, 6), conv(6, 8)

        def forward(self, x):
            return x + self.back(self.inside(x).cumprod(3))

    body = nn.Sequential(Block(), Block())
    _, pruner = prepared(nn.Sequential(conv(3, 8), body, nn.Conv2d(8, 4, 1)))
    found = {pinned.reason: pinned for pinned in find(pruner.supernet).pinned}
    held = found['goes through CumprodBackward0, which mmprune does not know, in 1.*']
    assert held.groups == ('1.0.inside', '1.1.inside')
    assert held.channels == 12


@pytest.mark.parametrize(
    ('reason', 'pattern'),
    [
        ('AddBackward0 in a.blocks.12.attn.0: meets', 'AddBackward0 in a.blocks.*.attn.*: meets'),
        ('Conv2d0 in stage1.conv2 has 2 groups', 'Conv2d0 in stage1.conv2 has 2 groups'),
        ('needs all channels of b.3.weight at once', 'needs all channels of b.*.weight at once'),
        ('X in 3 picks', 'X in 3 picks'),
        ('in a.b.7', 'in a.b.*'),
    ],
)
def test_the_number_of_a_block(reason, pattern):
    assert NUMBERED.sub('*', reason) == pattern


def lines(pruner):
    return pruner.report().splitlines()


def test_findings_are_plain_enough_for_json():
    _, pruner = prepared()
    pruner.set_min_channel()
    found = json.loads(json.dumps(find(pruner.supernet).as_dict()))
    assert found['model'] == 'Network'
    groups = {group['space_id']: group for group in found['groups']}
    assert groups.keys() == pruner.channel_groups.keys()
    stem = groups['stem']
    assert (stem['channels'], stem['kept'], stem['prunable']) == (14, 4, True)
    assert stem['constraints'][0]['blocks'] == 2
    assert {'tensor': 'grouped.weight', 'dims': [0, 1]} in stem['members']
    assert groups['head']['reason'] == 'output of the network'
    assert found['costs'][1]['params'] == pruner.cost()['params']
    assert 0.9 < found['prunable_share']['params'] < 1


def test_the_report_says_of_a_number_in_the_code_that_it_counts_channels_and_the_rest_is_prunable():
    class Literal(nn.Module):
        def forward(self, x):
            return x.reshape(len(x), 8, -1).softmax(-1).reshape(len(x), 8, *x.shape[2:])

    model = nn.Sequential(conv(3, 5), conv(5, 8), Literal(), conv(8, 6), conv(6, 4))
    _, pruner = prepared(model)
    assert list(pruner.channel_spaces) == ['0', '3']
    reason = pruner.channel_groups['1'].reason
    assert reason == 'a view in 2 counts 8 of them in its code'
    assert any(f'pinned: 1 group, 8 channels: {reason} [1]' in text for text in lines(pruner))
    assert pruner.verify_subnet().ok
