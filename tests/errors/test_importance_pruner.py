"""Options of ImportancePruner and of rounding that make no sense: refused, and nothing changes."""

import pytest
from small_network import images, nothing_changes, small_network

from mmprune.errors import InputError
from mmprune.registry import PRUNERS


def built(**options):
    return PRUNERS.build(dict(type='ImportancePruner', **options))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'needs either ratio or budget'),
        (dict(ratio=0.5, budget=dict(macs=0.5)), 'needs either ratio or budget'),
        (dict(ratio=0.0), 'a number above 0 up to 1, found 0.0'),
        (dict(ratio=[0.5]), r'found \[0.5\]'),
        (dict(ratio=0.02), 'more than max_removed=0.9 allows'),
        (dict(ratio=0.5, scope='layer'), "scope must be one of 'global', .* not 'layer'"),
        (dict(ratio=0.5, min_channels=0), 'min_channels: expected a whole number from 1, found 0'),
        (dict(ratio=0.5, min_channels=1.5), 'min_channels: expected .* found 1.5'),
        (dict(ratio=0.5, max_removed=1.5), 'max_removed must be a share from 0 to 1, not 1.5'),
        (dict(ratio=0.5, round_to=0), 'round_to: expected a whole number from 1, found 0'),
        (dict(ratio=0.5, round_to=True), 'round_to: expected a whole number from 1, found True'),
        (dict(ratio=0.5, importance=dict(type='Nope')), "there is no importance 'Nope'"),
        (dict(budget={}), 'budget must be a dict with some of the keys macs, params, latency'),
        (dict(budget=0.5), 'budget must be a dict .* not 0.5'),
        (dict(budget=dict(flops=0.5)), "budget must be a dict .* not {'flops': 0.5}"),
        (dict(budget=dict(macs=0)), 'the limit of macs must be a number above 0, not 0'),
        (dict(budget=dict(macs=float('nan'))), 'must be a number above 0, not nan'),
        (dict(budget=dict(params='1M')), "must be a number above 0, not '1M'"),
        (dict(budget=dict(latency=3.0)), 'a limit of latency needs latency='),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        built(**options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ratio={'backbone.*': 0.5}), r"'backbone\.\*' matches no layer of the 2 prunable"),
        (dict(budget=dict(params=10)), r'costs [\d,]+ of at most 10 parameters'),
        (dict(ratio=0.5, importance=dict(type='TaylorImportance')), 'has seen no data'),
        (dict(budget=dict(latency=0.5), latency='nowhere.json'), r'nowhere\.json'),
        (
            dict(budget=dict(latency=0.5), latency=lambda pruner, subnet: float('nan')),
            'latency.pruner, subnet. gave nan, which is no time',
        ),
    ],
)
def test_a_subnet_that_cannot_be_found_changes_nothing(options, message):
    model, pruner = small_network(), built(**options)
    pruner.prepare_from_supernet(model, images())
    with nothing_changes(model, pruner):
        for find in (pruner.prune, pruner.pruned_subnet, pruner.sample_subnet):
            with pytest.raises(InputError, match=message):
                find()


def test_pruning_before_preparing():
    with pytest.raises(RuntimeError, match='ImportancePruner has no supernet yet'):
        built(ratio=0.5).prune()
