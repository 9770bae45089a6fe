"""Norms, weights behind functions and layers of every kind: exact, or pinned with a reason."""

import pytest
import toys_functions
import toys_layers
import toys_norms
import toys_recurrent
import toys_regions
from toy_checks import assert_exact, assert_groups, assert_plain, assert_trains, prepared

FAMILIES = [toys_norms, toys_functions, toys_regions, toys_layers, toys_recurrent]
TOYS = [toy for family in FAMILIES for toy in family.TOYS]
pytestmark = pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_and_plain_networks(toy):
    model, data, pruner = prepared(toy)
    assert_groups(toy, pruner)
    assert_plain(toy, model, data, pruner)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_subnets_are_exact_in_eval_mode_and_in_training(toy, execution):
    model, data, pruner = prepared(toy, execution)
    assert_exact(toy, model, data, pruner, seeds=2)
    assert_trains(model, data, pruner)
