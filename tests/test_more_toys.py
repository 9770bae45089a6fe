"""Norms, weights behind functions and layers of every kind: exact, or pinned with a reason."""

import re
from pathlib import Path

import pytest
import torch
import toy_networks
import toys_functions
import toys_handed
import toys_layers
import toys_libraries
import toys_norms
import toys_recurrent
import toys_regions
import toys_roads
import toys_shuffles
from randomised import scattered
from toy_checks import assert_exact, assert_groups, assert_plain, assert_trains, prepared

from mmprune.registry import BACKWARD_PARSERS, PRUNERS, table
from mmprune.trace import TraceError, trace
from mmprune.trace.checkpoints import OTHER, REENTRANT

FAMILIES = [
    toys_norms,
    toys_functions,
    toys_regions,
    toys_layers,
    toys_recurrent,
    toys_handed,
    toys_libraries,
    toys_shuffles,
]
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
    assert_exact(toy, model, data, pruner, seeds=1)
    assert_trains(model, data, pruner)


def test_a_function_of_ones_own_is_pruned_once_it_has_a_parser(monkeypatch):
    """It is an element-wise function; a user says so in one line."""
    parsers = table(BACKWARD_PARSERS)
    monkeypatch.setitem(BACKWARD_PARSERS.module_dict, 'DoubleBackward', parsers['ReluBackward'])
    model, data, pruner = prepared(toys_regions.CustomFunction)
    assert list(pruner.channel_spaces) == ['a', 'b']
    assert_exact(toys_regions.CustomFunction, model, data, pruner, seeds=1)


@pytest.mark.parametrize('toy', [toys_regions.Checkpointed, toys_regions.CheckpointedReentrant])
def test_checkpointing_is_torchs_own_again(toy):
    names = (REENTRANT, OTHER)
    before = [getattr(torch.utils.checkpoint, name) for name in names]
    model, data, pruner = prepared(toy)
    pruner.set_subnet(scattered(pruner))
    model.train()(data).sum().backward()
    assert [getattr(torch.utils.checkpoint, name) for name in names] == before

    def fails(self, x):
        raise RuntimeError('no')

    monkey = toy().double()
    monkey.b.forward = fails
    with pytest.raises(TraceError):
        trace(monkey, data)
    assert [getattr(torch.utils.checkpoint, name) for name in names] == before


def test_a_recurrent_network_in_single_precision():
    """Its kernels are other ones than those of double precision."""
    toy = toys_recurrent.DeepLstm
    model, data, pruner = prepared(toy)
    subnet = scattered(pruner)
    report = pruner.verify_subnet(model.float(), subnet)
    assert report.ok, report
    pruner.prepare_from_supernet(model, data.float())
    assert_groups(toy, pruner)


def test_removing_a_weight_norm_after_deployment():
    """The weight that is left is the one of the deployed network."""
    toy = toys_functions.OldWeightNorm
    model, data, pruner = prepared(toy)
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    assert deployed.a.weight.shape == deployed.a.weight_v.shape
    expected = deployed(data)
    for layer in (deployed.a, deployed.b, deployed.fc):
        torch.nn.utils.remove_weight_norm(layer)
    torch.testing.assert_close(deployed(data), expected, rtol=1e-12, atol=1e-12)


class DividesByNothing(torch.nn.Linear):
    """A norm without epsilon: 0 / 0 where masks have removed a row."""

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight / self.weight.norm(dim=1, keepdim=True))


def test_what_masks_make_infinite_is_pinned_and_not_passed_over():
    layers = [torch.nn.Linear(6, 8), DividesByNothing(8, 7), torch.nn.Linear(7, 4)]
    model, data = torch.nn.Sequential(*layers), torch.randn(2, 6)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution='mask'))
    pruner.prepare_from_supernet(model, data)
    assert 'sliced and masked outputs differ' in pruner.channel_groups['1'].reason
    pruner.set_min_channel()
    assert torch.isfinite(model(data)).all()
    assert pruner.verify_subnet(model).ok


def test_the_page_of_what_can_be_pruned_names_every_toy():
    page = Path(__file__).parents[1] / 'docs' / 'what-can-be-pruned.md'
    rows = [line for line in page.read_text(encoding='utf-8').splitlines() if line[:2] == '| ']
    cells = [line.rstrip(' |').rpartition('|')[2] for line in rows]
    named = {name for cell in cells for name in re.findall(r'`(\w+)`', cell)}
    every = [*toy_networks.TOYS, *TOYS, *toys_roads.TOYS]
    assert named == {toy.__name__ for toy in every}
