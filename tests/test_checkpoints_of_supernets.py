"""A supernet's checkpoint holds its masks, and the pruner follows what is loaded."""

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from randomised import randomise, scattered
from saved_supernets import (
    DATA,
    Algorithm,
    Network,
    assert_equal,
    contents,
    kept,
    masks_of,
    saved_supernet,
    supernet,
)
from torch import nn

from mmprune.errors import InputError


@pytest.fixture
def checkpoint(tmp_path):
    return saved_supernet(tmp_path)


def load_by_torch(model, path):
    model.load_state_dict(torch.load(path, weights_only=True))


def load_by_torch_assigning(model, path):
    model.load_state_dict(torch.load(path, weights_only=True), assign=True)


def load_by_mmengine(model, path):
    load_checkpoint(model, str(path), map_location='cpu', strict=True)


def load_state_by_mmengine(model, path):
    load_state_dict(model, torch.load(path, weights_only=True), strict=True)


LOADERS = [load_by_torch, load_by_torch_assigning, load_by_mmengine, load_state_by_mmengine]


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('load', LOADERS, ids=lambda load: load.__name__)
def test_the_pruner_follows_a_supernets_checkpoint(load, execution, checkpoint):
    source, source_pruner, path = checkpoint
    model, pruner = supernet(seed=2, execution=execution)
    pruner.set_subnet(scattered(pruner, seed=7))  # is replaced by what is loaded
    assert kept(pruner.current_subnet()) != kept(source_pruner.current_subnet())
    load(model, path)
    assert kept(pruner.current_subnet()) == kept(source_pruner.current_subnet())
    assert kept(pruner.channel_spaces) == kept(source_pruner.channel_spaces)
    assert pruner.export_subnet() == source_pruner.export_subnet()
    assert pruner.cost() == source_pruner.cost()
    torch.testing.assert_close(model(DATA), source(DATA), rtol=1e-10, atol=1e-12)
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    torch.testing.assert_close(deployed(DATA), source(DATA), rtol=1e-10, atol=1e-12)
    # and it can still be switched
    pruner.set_max_channel()
    source_pruner.set_max_channel()
    torch.testing.assert_close(model(DATA), source(DATA), rtol=1e-10, atol=1e-12)


def test_the_state_dict_holds_a_mask_for_every_side_of_every_layer(checkpoint):
    _, pruner, path = checkpoint
    stored = torch.load(path, weights_only=True)
    plain = set(Network().state_dict())
    sides = {'out_mask', 'in_mask'}
    layers = {'a': sides, 'b': sides, 'c': sides, 'fc': sides, 'head': sides}
    layers |= {'norm': {'out_mask'}, 'group_norm': {'out_mask'}}
    expected = {f'{layer}.{side}' for layer, found in layers.items() for side in found}
    assert set(stored) == plain | expected
    assert set(torch.cat([stored[key].flatten() for key in expected]).tolist()) == {0.0, 1.0}
    for space_id, mask in pruner.current_subnet().items():
        torch.testing.assert_close(stored[f'{space_id}.out_mask'], mask)
    torch.testing.assert_close(stored['norm.out_mask'], stored['b.in_mask'])
    assert (stored['a.in_mask'] == 1).all()


@pytest.mark.parametrize('prefix', ['architecture.', 'network.', 'architecture.network.'])
@pytest.mark.parametrize('load', LOADERS, ids=lambda load: load.__name__)
def test_masks_are_found_in_the_checkpoint_of_a_wrapper(load, prefix, checkpoint, tmp_path):
    source, source_pruner, path = checkpoint
    model, pruner = supernet(seed=2)
    outer = model
    for name in reversed(prefix.split('.')[:-1]):
        outer = Algorithm(outer) if name == 'architecture' else nn.ModuleDict({name: outer})
    state = {prefix + k: v for k, v in torch.load(path, weights_only=True).items()}
    outer_path = tmp_path / 'outer.pth'
    torch.save(outer.state_dict() | state, outer_path)
    load(outer, outer_path)
    assert kept(pruner.current_subnet()) == kept(source_pruner.current_subnet())
    torch.testing.assert_close(model(DATA), source(DATA), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('load', LOADERS, ids=lambda load: load.__name__)
def test_a_plain_checkpoint_is_one_of_the_full_width(load, tmp_path):
    plain = randomise(Network().double(), seed=3).eval()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    model, pruner = supernet()
    pruner.set_min_channel()
    load(model, tmp_path / 'plain.pth')
    assert all((mask == 1).all() for mask in pruner.current_subnet().values())
    torch.testing.assert_close(model(DATA), plain(DATA), rtol=0, atol=0)
    assert pruner.cost()['params'] == sum(p.numel() for p in plain.parameters())


def test_loading_a_plain_state_dict_does_not_write_masks_into_it():
    state = randomise(Network().double()).state_dict()
    names = set(state)
    model, _ = supernet()
    model.load_state_dict(state)
    assert set(state) == names


def drop(state, *parts):
    return {k: v for k, v in state.items() if not any(part in k for part in parts)}


def changed(keys, change):
    return lambda state: state | {key: change(state[key].clone()) for key in keys.split()}


def flip_first_kept(mask):
    flat = mask.flatten()
    flat[int(flat.nonzero()[0])] = 0
    return flat.reshape(mask.shape)


WRONG = {
    'a member disagrees': (
        changed('norm.out_mask', torch.ones_like),
        r"masks of the state dict disagree: 'norm\.out_mask' keeps 8 of 8 channels, of which "
        r'other layers keep 4',
    ),
    'a mask is missing': (
        lambda state: drop(state, 'b.in_mask'),
        r"masks of the state dict disagree: 'b\.in_mask' keeps 8 of 8",
    ),
    'a mask is fractional': (
        changed('fc.out_mask', lambda mask: mask / 2),
        r"'fc\.out_mask' has values other than 0 and 1",
    ),
    'a mask is not a number': (
        changed('fc.out_mask', lambda mask: mask * float('nan')),
        r"'fc\.out_mask' has values other than 0 and 1",
    ),
    'a mask has another size': (
        changed('fc.out_mask', lambda mask: mask[:, :-1]),
        r"'fc\.out_mask' is for 9 channels, the layer has 10",
    ),
    'a group is empty': (
        changed('fc.out_mask head.in_mask', torch.zeros_like),
        r"masks of the state dict: group 'fc' keeps 0 of 10 channels; at least 1 must stay",
    ),
    'a pinned layer loses channels': (
        changed('head.out_mask', flip_first_kept),
        r"group 'head' removes 1 channels of a pinned group \(output of the network\)",
    ),
    'the blocks of a norm differ': (
        changed('b.out_mask group_norm.out_mask c.in_mask', flip_first_kept),
        r"group 'b' keeps between \d and \d channels in \d blocks that must keep equally many",
    ),
}  # fmt: skip


@pytest.mark.parametrize('load', LOADERS, ids=lambda load: load.__name__)
@pytest.mark.parametrize('case', WRONG)
def test_wrong_masks_are_refused_and_change_nothing(case, load, checkpoint, tmp_path):
    source, _, _ = checkpoint
    change, message = WRONG[case]
    torch.save(change(source.state_dict()), tmp_path / 'wrong.pth')
    model, pruner = supernet(seed=2)
    pruner.set_subnet(scattered(pruner, seed=7))
    before, subnet, output = contents(model), kept(pruner.current_subnet()), model(DATA)
    with pytest.raises(InputError, match=message):
        load(model, tmp_path / 'wrong.pth')
    assert_equal(contents(model), before)
    assert kept(pruner.current_subnet()) == subnet
    torch.testing.assert_close(model(DATA), output, rtol=0, atol=0)


def test_after_a_failed_load_of_weights_the_pruner_still_agrees_with_the_masks(checkpoint):
    """torch loads what fits and then raises; masks and pruner must not part."""
    source, source_pruner, _ = checkpoint
    state = source.state_dict() | {'fc.weight': torch.zeros(3, 3)}
    model, pruner = supernet(seed=2)
    with pytest.raises(RuntimeError, match=r'size mismatch for fc\.weight'):
        model.load_state_dict(state)
    assert kept(pruner.current_subnet()) == kept(source_pruner.current_subnet())
    for name, mask in masks_of(model).items():
        torch.testing.assert_close(mask, source.state_dict()[name])
    assert pruner.verify_subnet(model, pruner.current_subnet()).ok


def test_a_checkpoint_of_mask_execution_loads_into_slice_execution():
    source, source_pruner = supernet(seed=1, execution='mask')
    source_pruner.set_subnet(scattered(source_pruner))
    model, pruner = supernet(seed=2)
    model.load_state_dict(source.state_dict())
    assert kept(pruner.current_subnet()) == kept(source_pruner.current_subnet())
    torch.testing.assert_close(model(DATA), source(DATA), rtol=1e-10, atol=1e-12)
