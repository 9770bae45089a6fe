"""Norms, weights behind functions and layers of every kind: exact, or pinned with a reason."""

import re
from pathlib import Path

import pytest
import torch
import toy_networks
import toys_attention
import toys_attention_of_images
import toys_decoders
import toys_experts
import toys_functions
import toys_handed
import toys_heads
import toys_layers
import toys_layouts
import toys_libraries
import toys_norms
import toys_recurrent
import toys_regions
import toys_roads
import toys_sampled
import toys_shuffles
import toys_weights
from randomised import scattered
from toy_checks import assert_exact, assert_groups, assert_plain, assert_trains, prepared

from mmprune.registry import BACKWARD_PARSERS, CHANNEL_RULES, PRUNERS, table
from mmprune.testing import check_network
from mmprune.trace import TraceError, trace
from mmprune.trace.checkpoints import OTHER, REENTRANT

FAMILIES = [
    toys_norms,
    toys_functions,
    toys_regions,
    toys_sampled,
    toys_layers,
    toys_recurrent,
    toys_handed,
    toys_libraries,
    toys_shuffles,
    toys_decoders,
    toys_experts,
    toys_heads,
    toys_layouts,
    toys_attention,
    toys_attention_of_images,
    toys_weights,
]
TOYS = [toy for family in FAMILIES for toy in family.TOYS]
pytestmark = pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_and_plain_networks(toy):
    model, data, pruner = prepared(toy)
    assert_groups(toy, pruner)
    assert_plain(toy, model, data, pruner)


def test_functions_of_others_are_given_contiguous_weights():
    model, data, pruner = prepared(toys_sampled.DeformedConvolution)
    pruner.set_min_channel()  # the first channels, which could be a view
    model.train()(data).sum().backward()
    assert model.b.weight.grad[:3, :4].any()
    assert not model.b.weight.grad[3:].any()


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_subnets_are_exact_in_eval_mode_and_in_training(toy, execution):
    model, data, pruner = prepared(toy, execution)
    assert_exact(toy, model, data, pruner, seeds=1)
    assert_trains(model, data, pruner)


@pytest.mark.parametrize(
    ('op', 'pinned', 'where', 'free'),
    [
        ('elementwise', 'a', 'ReluBackward0 of the root module', {'b'}),
        ('conv', 'a', 'ConvolutionBackward0 of b', set()),
        ('reduce', 'b', 'MeanBackward1 of the root module', {'a'}),
    ],
)
def test_a_failure_in_a_rule_pins_what_reaches_it(op, pinned, where, free, monkeypatch):
    """Whatever goes wrong, the node and its module are named, and the rest can be pruned."""

    def broken(node, inputs, book):
        if node.module != 'a':
            raise IndexError('index 0 is out of bounds')
        return rule(node, inputs, book)

    rule = table(CHANNEL_RULES)[op]
    monkeypatch.setitem(CHANNEL_RULES.module_dict, op, broken)
    _, _, pruner = prepared(toy_networks.Chain)
    why = f'labelling failed in {where}: IndexError: index 0 is out of bounds; please report'
    assert pruner.channel_groups[pinned].reason == why
    assert set(pruner.channel_spaces) == free
    assert not free or pruner.verify_subnet().ok


@pytest.mark.skipif(not hasattr(torch.nn.functional, 'grouped_mm'), reason='torch is older')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('toy', toys_experts.TOYS[:2], ids=lambda toy: toy.__name__)
def test_experts_by_torchs_own_kernel(toy, dtype):
    """It knows no double precision, and reads runs of 16 bytes."""
    torch.manual_seed(0)
    model, data = toy().to(dtype).eval(), torch.randn(toy.INPUT).to(dtype)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    assert_groups(toy, pruner)
    for seed in range(3):
        report = pruner.verify_subnet(subnet=scattered(pruner, seed))
        assert report.ok, report


def test_a_function_of_ones_own_is_pruned_once_it_has_a_parser(monkeypatch):
    """It is an element-wise function; a user says so in one line."""
    parsers = table(BACKWARD_PARSERS)
    monkeypatch.setitem(BACKWARD_PARSERS.module_dict, 'DoubleBackward', parsers['ReluBackward'])
    model, data, pruner = prepared(toys_regions.FunctionOutsideTorch)
    assert list(pruner.channel_spaces) == ['a', 'b']
    assert_exact(toys_regions.FunctionOutsideTorch, model, data, pruner, seeds=1)


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


@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors')
def test_an_odd_number_of_heads_is_left_of_an_encoder_with_padding():
    """torch's kernel for ragged tensors takes even ones only."""

    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(12, 2, 8, batch_first=True)
            self.a, self.head = torch.nn.Linear(6, 12), torch.nn.Linear(12, 4)
            self.encoder = torch.nn.TransformerEncoder(layer, 2)

        def forward(self, x, is_padding):
            return self.head(self.encoder(self.a(x), src_key_padding_mask=is_padding)[:, :3])

    is_padding = torch.arange(5) >= torch.tensor([[3], [5]])
    report = check_network(Padded(), (torch.randn(2, 5, 6), is_padding), trains=False)
    assert report.kept < 0.45, report


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
