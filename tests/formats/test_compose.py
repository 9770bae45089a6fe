"""Channel configs of several rounds become one, which deploys to the last round's network."""

import pytest
import torch
import toy_networks
import toys_decoders
import toys_experts
import toys_functions
import toys_handed
import toys_layers
import toys_libraries
import toys_norms
import toys_recurrent
import toys_shuffles
from randomised import randomise, scattered
from toy_checks import demo_input

from mmprune.deploy import ChannelCfgError, compose, load_channel_cfg, save_channel_cfg
from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model, tensors_in

FAMILIES = [
    toy_networks, toys_decoders, toys_experts, toys_functions, toys_handed, toys_layers,
    toys_libraries, toys_norms, toys_recurrent, toys_shuffles,
]  # fmt: skip
TOYS = [toy for family in FAMILIES for toy in family.TOYS]
# The second round removes whole groups, or heads by their width, which the first has left: as one
# choice the full network has none of them.
NO_SUBNETS = {
    *('GroupedConv', 'Transposed', 'MethodOfAModule', 'WeightsByBatchNorm', 'FusedEncoder'),
    *('RotaryGrouped', 'MaskedAttention', 'NormOfBlocks'),
}
pytestmark = [
    pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad'),
    pytest.mark.filterwarnings(r'ignore:std_mean\(\)'),  # of what is one channel wide in the end
]


def pruned(toy, model, data, seed):
    """A channel config, and the small network that it makes; None if nothing can go."""
    settings = dict(type='RatioPruner', ratios=[0.5, 1.0])
    pruner = PRUNERS.build(settings | toy.OPTIONS)
    pruner.prepare_from_supernet(model, data)
    if not pruner.channel_spaces:
        return pruner.export_subnet(), model
    pruner.set_subnet(scattered(pruner, seed))
    cfg = pruner.export_subnet()
    return cfg, pruner.deploy_subnet(model, cfg)


def rounds(toy, count=2):
    torch.manual_seed(0)
    model, data = randomise(toy().double()).eval(), demo_input(toy)
    plain = toy().double().eval()
    plain.load_state_dict(model.state_dict())
    small, cfgs = model, []
    for seed in range(count):
        cfg, small = pruned(toy, small, data, seed)
        cfgs.append(cfg)
    return plain, data, cfgs, small


def assert_same(found, expected):
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_two_rounds_are_one(toy):
    model, data, cfgs, small = rounds(toy)
    whole = compose(*cfgs)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    found = pruner.deploy_subnet(model, whole)  # without a trace
    assert_same(found, small)
    if toy.__name__ not in NO_SUBNETS:
        pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]) | toy.OPTIONS)
        pruner.prepare_from_supernet(model, data)
        assert_same(pruner.deploy_subnet(model, whole), small)  # checked against the labels
    if toy.__name__ == 'ProjectedLstm':
        return  # torch cannot run one whose projection is as wide as its state
    with torch.no_grad():
        pairs = [tensors_in(run_model(network, data)) for network in (found, small)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_files_and_three_rounds(tmp_path):
    model, _, cfgs, small = rounds(toy_networks.Chain, 3)
    for number, cfg in enumerate(cfgs):
        save_channel_cfg(cfg, tmp_path / f'{number}.yaml')
    both = compose(tmp_path / '0.yaml', str(tmp_path / '1.yaml'))
    save_channel_cfg(compose(both, cfgs[2]), tmp_path / 'all.yaml')
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    assert_same(pruner.deploy_subnet(model, load_channel_cfg(tmp_path / 'all.yaml')), small)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda cfg: cfg['a'].update(raw_out_channels=9),
            r"layer 'a': out_channels: was made for 9",
        ),
        (lambda cfg: cfg['__format__'].update(model_layers=7), 'with 7 .* for one with 4'),
    ],
)
def test_what_does_not_follow_is_refused(change, message):
    _, _, cfgs, _ = rounds(toy_networks.Chain)
    change(cfgs[1])
    with pytest.raises(ChannelCfgError, match=message):
        compose(*cfgs)


def test_unit_files_are_refused():
    with pytest.raises(ChannelCfgError, match='is a unit file of MMRazor'):
        compose(
            {'channel_unit_cfg': {'units': {}}}, {'a': {'out_channels': 1, 'raw_out_channels': 2}}
        )
