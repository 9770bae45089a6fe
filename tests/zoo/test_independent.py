"""The third computation: right on toy networks, and wrong when the channel config is."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from mmcls.models.backbones.hornet import HorNetLayerNorm
from mmcls.models.utils import GRN
from randomised import randomise, scattered
from small_classifiers import SMALL
from torch import nn
from toy_networks import TOYS
from toys_attention import OneHeadOfTorch
from toys_shuffles import TOYS as SHUFFLES

import mmprune.zoo.independent
from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model, tensors_in
from mmprune.zoo import Plan, build, images, zeroed
from mmprune.zoo.check import measure
from mmprune.zoo.independent import KeptNorm, KeptResponseNorm, zeroed_like
from mmprune.zoo.independent.values import _kept_positions
from mmprune.zoo.models import build_config
from mmprune.zoo.running import difference, run


@pytest.mark.parametrize('toy', [*TOYS, *SHUFFLES, OneHeadOfTorch], ids=lambda toy: toy.__name__)
def test_toy_networks(toy):
    model = randomise(toy().double()).eval()
    original = copy.deepcopy(model)
    data = torch.randn(toy.INPUT, dtype=torch.float64) if toy.INPUT is not None else {
        'grey': torch.randn(2, 1, 8, 8, dtype=torch.float64),
        'depth': torch.randn(2, 4, 8, 8, dtype=torch.float64),
    }  # fmt: skip
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, data)
    for seed in range(2):
        pruner.set_subnet(scattered(pruner, seed))
        channel_cfg = pruner.export_subnet()
        with torch.no_grad():
            small = tensors_in(run_model(pruner.deploy_subnet(model, channel_cfg), data))
            ours = tensors_in(run_model(zeroed(original, channel_cfg), data))
        for one, other in zip(ours, small, strict=True):
            assert difference(one, other) < 1e-10


@pytest.fixture(scope='module')
def resnet():
    original = build('resnet18')
    batch = images(original)
    return original, batch, measure(copy.deepcopy(original), batch, Plan())


@pytest.mark.parametrize(
    ('layer', 'side'),
    [
        ('backbone.conv1', 'out'),
        ('backbone.layer1.0.conv1', 'out'),
        ('backbone.layer2.0.conv1', 'in'),
        ('backbone.layer3.0.downsample.0', 'in'),
        ('backbone.layer4.1.bn2', 'out'),
        ('head.fc', 'in'),
    ],
)
def test_one_wrong_channel_number_shows(resnet, layer, side):
    original, batch, measured = resnet
    wrong = copy.deepcopy(measured.pruner.export_subnet())
    index = wrong[layer][f'{side}_index']
    dropped = set(range(wrong[layer][f'raw_{side}_channels'])) - set(index)
    index[0] = min(dropped)
    assert difference(run(zeroed(original, wrong), batch), measured.output) > 1e-6


def test_the_original_is_left_alone(resnet):
    original, batch, measured = resnet
    before = run(original, batch)
    zeroed(original, measured.pruner.export_subnet())
    assert torch.equal(run(original, batch), before)


def test_all_channels_kept_is_the_original():
    original = build_config(SMALL['response norm'])
    batch = images(original)
    everything = measure(copy.deepcopy(original), batch, Plan(1.0)).pruner.export_subnet()
    assert difference(run(zeroed(original, everything), batch), run(original, batch)) < 1e-12


@pytest.mark.parametrize('groups', [1, 2])
def test_kept_norm_is_the_small_norm_among_zeros(groups):
    torch.manual_seed(0)
    kept = torch.tensor([0, 3, 4, 7])
    data = torch.randn(2, 8, 5, dtype=torch.float64)
    full = randomise(nn.GroupNorm(groups, 8).double())
    small = nn.GroupNorm(groups, 4).double()
    small.load_state_dict({key: value[kept] for key, value in full.state_dict().items()})
    result = KeptNorm(full, kept)(data)
    torch.testing.assert_close(result[:, kept], small(data[:, kept]))
    assert (result[:, [1, 2, 5, 6]] == 0).all()


@pytest.mark.parametrize('data_format', ['channels_first', 'channels_last'])
def test_kept_norm_knows_the_norm_of_hornet(data_format):
    kept = torch.tensor([1, 2, 5])
    dim = 1 if data_format == 'channels_first' else 3
    full = randomise(HorNetLayerNorm(6, data_format=data_format).double())
    small = HorNetLayerNorm(3, data_format=data_format).double()
    small.load_state_dict({key: value[kept] for key, value in full.state_dict().items()})
    shape = (2, 6, 4, 4) if dim == 1 else (2, 4, 4, 6)
    data = torch.randn(shape, dtype=torch.float64)
    result = KeptNorm(full, kept)(data)
    torch.testing.assert_close(result.index_select(dim, kept), small(data.index_select(dim, kept)))
    assert (result.index_select(dim, torch.tensor([0, 3, 4])) == 0).all()


def test_kept_norm_knows_root_mean_squares():
    kept = torch.tensor([0, 2])
    full, small = (nn.RMSNorm(size, dtype=torch.float64) for size in (4, 2))
    randomise(full)
    small.load_state_dict({'weight': full.weight[kept]})
    data = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(KeptNorm(full, kept)(data)[:, kept], small(data[:, kept]))


@pytest.mark.parametrize('data_format', ['channel_first', 'channel_last'])
def test_kept_response_norm_is_the_small_norm_among_zeros(data_format):
    kept = torch.tensor([0, 3, 4])
    full, small = randomise(GRN(6).double()), GRN(3).double()
    small.load_state_dict({key: value[kept] for key, value in full.state_dict().items()})
    dim = 1 if data_format == 'channel_first' else 3
    data = torch.randn((2, 6, 4, 4) if dim == 1 else (2, 4, 4, 6), dtype=torch.float64)
    result = KeptResponseNorm(full, kept)(data, data_format)
    expected = small(data.index_select(dim, kept), data_format)
    torch.testing.assert_close(result.index_select(dim, kept), expected)
    assert (result.index_select(dim, torch.tensor([1, 2, 5])) == 0).all()


@pytest.fixture(scope='module')
def transformers():
    """Mechanism -> the full network, the images, and what pruning it gave."""
    found = {}
    for mechanism in ('shifted windows, relative positions', 'response norm'):
        original = build_config(SMALL[mechanism])
        batch = images(original)
        found[mechanism] = original, batch, measure(copy.deepcopy(original), batch, Plan())
    return found


def shifted(numbers, size):
    """The same numbers, but one that was not among them in the place of the first."""
    return sorted([min(set(range(size)) - set(numbers)), *numbers[1:]])


@pytest.mark.parametrize(
    ('mechanism', 'layer', 'place'),
    [
        ('shifted windows, relative positions', 'backbone.stages.0.blocks.0.attn.w_msa.qkv', 'out'),
        ('shifted windows, relative positions', 'backbone.stages.0.blocks.0.attn.w_msa.proj', 'in'),
        ('shifted windows, relative positions', 'backbone.stages.0.blocks.1.norm1', 'out'),
        ('shifted windows, relative positions', 'backbone.stages.0.downsample.norm', 'out'),
        (
            'shifted windows, relative positions',
            'backbone.stages.1.blocks.1.attn.w_msa',
            'relative_position_bias_table',
        ),
        ('response norm', 'backbone.stages.0.0.grn', 'gamma'),
        ('response norm', 'backbone.stages.1.0.depthwise_conv', 'out'),
    ],
)
def test_one_wrong_channel_of_a_transformer_shows(transformers, mechanism, layer, place):
    original, batch, measured = transformers[mechanism]
    wrong = copy.deepcopy(measured.pruner.export_subnet())
    entry = wrong[layer]
    if place in ('in', 'out'):
        entry[f'{place}_index'] = shifted(entry[f'{place}_index'], entry[f'raw_{place}_channels'])
    else:
        (part,) = entry['tensors'][place].values()
        part['index'] = shifted(part.get('index', list(range(part['kept']))), part['raw'])
    assert difference(run(zeroed(original, wrong), batch), measured.output) > 1e-6


def test_the_numbers_of_a_deployed_network_tell_what_was_removed(transformers):
    for original, batch, measured in transformers.values():
        result = run(zeroed_like(original, measured.deployed), batch)
        assert difference(result, measured.output) < 1e-10


def test_a_network_that_was_cut_wrong_shows_by_its_numbers(transformers):
    original, batch, measured = transformers['response norm']
    wrong, name = copy.deepcopy(measured.deployed), 'backbone.stages.0.0.pointwise_conv1'
    entry = measured.pruner.export_subnet()[name]
    full = original.get_submodule(name).weight
    inputs = shifted(entry['in_index'], full.shape[1])
    with torch.no_grad():
        wrong.get_submodule(name).weight.copy_(full[entry['out_index']][:, inputs])
    assert difference(run(zeroed_like(original, wrong), batch), run(wrong, batch)) > 1e-6


def test_numbers_that_tell_nothing_are_refused():
    full, part = nn.Linear(4, 3), nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r'weight has numbers .* that were not in it before'):
        zeroed_like(full, part)
    nn.init.ones_(full.weight)
    nn.init.ones_(part.weight)
    with pytest.raises(ValueError, match='weight has the same number in several places'):
        zeroed_like(full, part)
    other = nn.Linear(4, 3, bias=False)
    with pytest.raises(ValueError, match='weight has other numbers'):
        zeroed_like(full, other)
    other.weight = full.weight
    with pytest.raises(ValueError, match='bias is missing'):
        zeroed_like(full, other)


@pytest.mark.parametrize('groups', [1, 4])
def test_positions_are_found_by_their_numbers(groups):
    """Whole rows and columns, and in every group other columns."""
    whole = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    rows = torch.tensor([0, 3, 4, 7])
    mask = torch.zeros_like(whole, dtype=torch.bool)
    for row in rows.tolist():
        mask[row, [0, 2, 5] if groups == 1 else [row % 3, 3, 5]] = True
    part = whole[mask].reshape(4, 3, 3, 3)
    assert torch.equal(_kept_positions('weight', whole, part), mask)


def test_it_shares_no_code_with_what_it_checks():
    folder = Path(mmprune.zoo.independent.__file__).parent
    for file in folder.glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                name = getattr(node, 'module', None) or node.names[0].name
                own = name.startswith('mmprune.zoo.independent')
                assert own or not name.startswith('mmprune'), f'{file.name} imports {name}'
