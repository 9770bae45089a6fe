"""Channel configs that are well-formed but do not fit the model, prepared or plain."""

import copy
import json

import pytest
import torch
from randomised import randomise
from small_network import (
    images,
    new_pruner,
    nothing_changes,
    prepared,
    razor_cfg,
    small_network,
)
from torch import nn

from mmprune.deploy import ChannelCfgError, compare


def change(layer, **values):
    """A change of some numbers of one layer's entry; None takes one out."""

    def apply(cfg):
        entry = cfg.setdefault(layer, {})
        entry.update(values)
        for key in [key for key, value in entry.items() if value is None]:
            del entry[key]

    return apply


def rename(old, new):
    def apply(cfg):
        cfg[new] = cfg.pop(old)

    return apply


# Name -> (what is wrong with a config of MMRazor 0.x's kind, the layer that is named, the message).
MISFITS = {
    'unknown layer': (rename('expand', 'widen'), 'widen', 'the model has no such layer'),
    'other raw outputs': (
        change('expand', raw_out_channels=16),
        'expand',
        'raw_out_channels is 16, but the layer has 12',
    ),
    'other raw inputs': (
        change('reduce', raw_in_channels=10),
        'reduce',
        'raw_in_channels is 10, but the layer has 12',
    ),
    'other raw channels of a norm': (
        change('norm', raw_out_channels=24),
        'norm',
        'raw_out_channels is 24, but the layer has 12',
    ),
    'inputs of a norm': (
        change('norm', in_channels=6, raw_in_channels=12),
        'norm',
        'has in_channels, but the layer (is a BatchNorm2d|has none)',
    ),
    'channels of an activation': (
        change('stem.2', out_channels=4, raw_out_channels=8),
        'stem.2',
        'has out_channels, but the layer is a ReLU|mmprune found no channels of this layer',
    ),
    'depthwise inputs and outputs': (
        change('depthwise', out_channels=5),
        'depthwise',
        'it is depthwise, but keeps 4 inputs and 5 outputs|keeps 5 of the 8 channels of group '
        r"'stem\.0' \(outputs\), but 'depthwise' \(inputs\) keeps 4",
    ),
    'other depthwise channels': (
        change('depthwise', out_index=[0, 1, 2, 4]),
        'depthwise',
        'it is depthwise, but keeps 4 inputs and 4 outputs that do not belong to each other|'
        r"keeps 4 of the 8 channels of group 'stem\.0' \(outputs\), but 'depthwise' \(inputs\) "
        'keeps others',
    ),
    'a tensor that is not there': (
        change('scale', tensors={'beta': {'0': {'kept': 4, 'raw': 8}}}),
        'scale',
        "(the layer has no parameter 'beta'|'beta' has 0 channels along dims 0.*says 8)",
    ),
    'a dim that is not there': (
        change('scale', tensors={'gamma': {'3': {'kept': 4, 'raw': 8}}}),
        'scale',
        "'gamma' has (3 dims, the config cuts dim 3|0 channels along dims 3)",
    ),
    'a dim of another size': (
        change('scale', tensors={'gamma': {'0': {'kept': 4, 'raw': 9}}}),
        'scale',
        "'gamma' has 8 (positions|channels) along dims 0, the config says 9",
    ),
}
# Only a trace can tell what is wrong with these.
CONTRADICTIONS = {
    'a norm that keeps more than its convolution': (
        change('norm', out_channels=7),
        'norm',
        r"keeps 7 of the 12 channels of group 'expand' \(outputs\), but 'expand' \(outputs\) "
        'keeps 6',
    ),
    'a consumer that reads other channels': (
        change('reduce', in_index=[0, 1, 2, 3, 4, 11]),
        'reduce',
        r"keeps 6 of the 12 channels of group 'expand' \(inputs\), but 'norm' \(outputs\) keeps "
        'others',
    ),
    'a residual whose sides differ': (
        change('reduce', out_channels=3),
        'reduce',
        r"keeps 3 of the 8 channels of group 'stem\.0' \(outputs\), but 'expand' \(inputs\) "
        'keeps 4',
    ),
    'a scale that differs': (
        change('scale', tensors={'gamma': {'0': {'kept': 2, 'raw': 8}}}),
        'scale',
        r"keeps 2 of the 8 channels of group 'stem\.0' \(gamma\), but 'fc' \(inputs\) keeps 4",
    ),
    'an output of the network': (
        change('fc', out_channels=3),
        'fc',
        r'keeps 3 of 5 channels \(outputs\), but 5 of them are pinned: output of the network',
    ),
    'an input of the network': (
        change('stem.0', in_channels=2),
        'stem.0',
        r'keeps 2 of 3 channels \(inputs\), but 3 of them are pinned: is an input of the network',
    ),
}


def written(folder, alter):
    cfg = razor_cfg(stem=4, inside=6)
    alter(cfg)
    path = folder / 'razor.json'
    path.write_text(json.dumps(cfg))
    return path


@pytest.mark.parametrize('case', [*MISFITS, *CONTRADICTIONS])
def test_a_prepared_pruner_refuses_it(tmp_path, case):
    alter, layer, message = {**MISFITS, **CONTRADICTIONS}[case]
    path = written(tmp_path, alter)
    model, pruner = prepared()
    uses = {
        'load': lambda: pruner.load_channel_cfg(path),
        'switch': lambda: pruner.switch_subnet(path),
        'deploy': lambda: pruner.deploy_subnet(model, path),
    }
    with nothing_changes(model, pruner, tmp_path):
        for use in uses.values():
            with pytest.raises(ChannelCfgError) as raised:
                use()
            assert raised.match(rf"razor\.json: layer '{layer}': .*({message})")


@pytest.mark.parametrize('case', MISFITS)
def test_deploying_a_plain_model_refuses_it(tmp_path, case):
    alter, layer, message = MISFITS[case]
    path, model = written(tmp_path, alter), small_network()
    with nothing_changes(model, folder=tmp_path):
        with pytest.raises(ChannelCfgError) as raised:
            new_pruner().deploy_subnet(model, path)
        assert raised.match(rf"razor\.json: layer '{layer}': .*({message})")


@pytest.mark.parametrize(
    'case',
    [
        'a norm that keeps more than its convolution',
        'a consumer that reads other channels',
        'a residual whose sides differ',
    ],
)
def test_what_only_a_trace_can_tell_does_not_pass_the_comparison(case):
    """Without a trace a contradiction deploys; running the network beside the supernet tells."""
    model, pruner = prepared()
    cfg = razor_cfg(stem=4, inside=6)
    pruner.switch_subnet(cfg)
    good = pruner.export_subnet()
    assert compare(model, new_pruner().deploy_subnet(small_network(), good), images()).ok
    bad = copy.deepcopy(good)
    CONTRADICTIONS[case][0](bad)
    report = compare(model, new_pruner().deploy_subnet(small_network(), bad), images())
    assert not report.ok
    assert report.first_diverging_module in ('norm', 'reduce', 'scale')


def test_a_hint_names_layers_that_the_model_has():
    cfg = razor_cfg()
    cfg['backbone.expand'] = cfg.pop('expand')
    with pytest.raises(ChannelCfgError, match=r"no such layer; .*for example, \['expand'\]"):
        new_pruner().deploy_subnet(small_network(), cfg)


def test_a_config_for_a_smaller_model_of_the_same_names_is_refused(tmp_path):
    """As of ResNet-18 for ResNet-34: every layer in it fits."""

    class Deeper(type(small_network())):
        def __init__(self):
            super().__init__()
            self.more = nn.Conv2d(8, 8, 1)

        def forward(self, data):
            data = self.stem(data)
            inside = self.norm(self.expand(self.depthwise(data))).relu()
            data = data + self.scale(self.reduce(inside))
            return self.fc((data + self.more(data)).mean((2, 3)))

    exported = prepared()[1].export_subnet()
    deeper = randomise(Deeper().double()).eval()
    with nothing_changes(deeper):
        with pytest.raises(
            ChannelCfgError, match=r'made for a model with 7 convolutions.*this Deeper has 8'
        ):
            new_pruner().deploy_subnet(deeper, exported)
        with pytest.raises(ChannelCfgError, match=r"lists 7 of the Deeper's 8.*'more' is missing"):
            new_pruner().deploy_subnet(deeper, razor_cfg())
    pruner = new_pruner()
    pruner.prepare_from_supernet(deeper, images())
    with nothing_changes(deeper, pruner), pytest.raises(
        ChannelCfgError, match="layer 'more': is missing; the config lists 7 of the 8 layers"
    ):  # fmt: skip
        pruner.load_channel_cfg(exported)


def test_a_group_with_equal_blocks_says_so():
    """A grouped convolution needs as many channels in each of its groups."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1), nn.Flatten()
    )
    model = randomise(model.double())
    pruner = new_pruner()
    pruner.prepare_from_supernet(model, images())
    pruner.set_min_channel()
    cfg = pruner.export_subnet()
    for layer, side in (('0', 'out'), ('1', 'in')):
        cfg[layer][f'{side}_index'] = [0, 1, 2, 4]
    plain = copy.deepcopy(model)
    with pytest.raises(ValueError, match="group '0' keeps between 1 and 3 channels in 2 blocks"):
        pruner.load_channel_cfg(cfg)
    with pytest.raises(ChannelCfgError, match="layer '1': its 2 groups keep between 1 and 3"):
        new_pruner().deploy_subnet(plain, cfg)


@pytest.mark.parametrize(
    ('unit', 'entry', 'message'),
    [
        ('widen_(0, 12)_12', {'choice': 3}, 'no layer of this name'),
        ('scale_(0, 8)_8', {'choice': 3}, 'no layer of this name with output channels'),
        ('expand', {'choice': 3}, 'no layer of this name'),
        ('expand_(0, 16)_16', {'choice': 3}, 'has 16 channels up to number 16, .* has 12'),
        ('expand_(0, 12)_10', {'choice': 3}, 'has 10 channels up to number 12'),
        ('expand_(0, 12)_12', {'choice': 0}, 'keeps 0 of 12 channels'),
        ('expand_(0, 12)_12', {'choice': -1}, 'keeps -1 of 12 channels'),
        ('expand_(0, 12)_12', {'choice': 0.0}, 'keeps 0.0 of 12 channels'),
        ('expand_(0, 12)_12', {'choice': 1.5}, 'keeps 1.5 of 12 channels'),
        ('expand_(0, 12)_12', {'choice': True}, 'keeps True of 12 channels'),
        ('expand_(0, 12)_12', {}, 'keeps None of 12 channels'),
        ('expand_(0, 12)_12', 3, 'expected a mapping, found 3'),
        ('fc_(0, 5)_5', {'choice': 2}, 'but 5 of them are pinned: output of the network'),
        ('reduce_(0, 8)_8', {'choice': 2}, r"keeps 2 of the 8 .* but 'stem\.0_.*' keeps 3"),
    ],
)
def test_units_of_mmrazor_1_that_do_not_fit(tmp_path, unit, entry, message):
    units = {'stem.0_(0, 8)_8': {'choice': 3}, unit: entry}
    path = tmp_path / 'units.json'
    path.write_text(json.dumps({'channel_unit_cfg': {'units': units}}))
    model, pruner = prepared()
    with nothing_changes(model, pruner, tmp_path):
        for use in (pruner.load_channel_cfg, pruner.switch_subnet):
            with pytest.raises(ValueError, match=rf'units\.json: .*{message}'):
                use(path)


def test_units_want_a_prepared_pruner(tmp_path):
    path = tmp_path / 'units.json'
    path.write_text(json.dumps({'channel_unit_cfg': {'units': {'a_(0, 8)_8': {'choice': 3}}}}))
    with pytest.raises(ChannelCfgError, match=r'units\.json: .*call prepare_from_supernet'):
        new_pruner().deploy_subnet(small_network(), path)


def test_shared_weights_that_would_become_two_are_refused():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.second.weight = self.first.weight

        def forward(self, data):
            return self.first(data) + self.second(data)

    entry = {'in_channels': 3, 'raw_in_channels': 3, 'raw_out_channels': 8}
    cfg = {'first': {**entry, 'out_channels': 4}, 'second': {**entry, 'out_channels': 5}}
    with pytest.raises(
        ChannelCfgError,
        match=r"layer 'second': weight is shared with first.weight, but they become \(5, 3, 1, 1\)",
    ):
        new_pruner().deploy_subnet(Shared(), cfg)


def test_torch_can_run_what_was_refused_and_mended(tmp_path):
    """After a refusal the same pruner and model go on."""
    model, pruner = prepared()
    with pytest.raises(ChannelCfgError):
        pruner.switch_subnet(written(tmp_path, MISFITS['unknown layer'][0]))
    pruner.switch_subnet(written(tmp_path, lambda cfg: None))
    assert pruner.verify_subnet(model, pruner.current_subnet()).ok
    assert torch.isfinite(model(images())).all()
