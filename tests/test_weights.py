"""Weights that nothing can be made of are named: in a file, and when a network is prepared."""

import random
from pathlib import Path

import pytest
import torch
from small_network import new_pruner, small_network
from torch import nn

from mmprune.checkpoint import load_weights, read_checkpoint
from mmprune.errors import InputError


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, model: nn.Module) -> None:
    path, drawn = tmp_path / 'epoch_1.pth', random.Random(0)
    torch.save({'state_dict': model.state_dict()}, path)
    whole, weights = path.read_bytes(), read_checkpoint(path)['state_dict']
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)['state_dict']
        except InputError:
            refused += 1
        else:
            assert same(found, weights)
    assert refused > 200


def test_an_entry_that_torch_would_pass_over_as_a_folder_is_refused(
    tmp_path: Path, model: nn.Module
) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    whole = bytearray(path.read_bytes())
    name = whole.rindex(b'data/1')
    entry = whole.rindex(b'PK\x01\x02', 0, name)
    whole[entry + 38] |= 0x10
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r'damaged: epoch_1/data/1 is not what was written'):
        read_checkpoint(path)


def broken(model: nn.Module, name: str, value: float, count: int = 1) -> dict[str, torch.Tensor]:
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state[name].view(-1)[:count] = value
    return state


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        ('0.weight', float('nan'), r'0\.weight: 3 NaN and 0 infinite of 36 numbers'),
        ('2.bias', float('-inf'), r'2\.bias: 0 NaN and 2 infinite of 2 numbers'),
        ('1.running_mean', float('nan'), r'1\.running_mean: 3 NaN and 0 infinite of 4'),
        ('1.running_var', -0.5, r'1\.running_var: 3 of 4 variances are negative'),
    ],
)
def test_numbers_that_are_none_are_counted_by_layer(
    tmp_path: Path, model: nn.Module, name: str, value: float, said: str
) -> None:
    path, before = tmp_path / 'diverged.pth', {k: v.clone() for k, v in model.state_dict().items()}
    state = broken(model, name, value, 3)
    torch.save({'state_dict': state}, path)
    with pytest.raises(InputError, match=rf'diverged\.pth: .*\n  {said}'):
        load_weights(model, path)
    assert same(dict(model.state_dict()), before)
    model.load_state_dict(state)
    with pytest.raises(InputError, match=rf'Sequential: .*\n  {said}'):
        new_pruner().prepare_from_supernet(model, torch.randn(1, 1, 8, 8))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda weight: weight.long(), r'0\.weight: is of the type torch\.int64'),
        (lambda weight: weight > 0, r'0\.weight: is of the type torch\.bool'),
        (lambda weight: weight.to(torch.complex64), r'0\.weight: is of the type torch\.complex64'),
        (lambda weight: weight.to_sparse(), r'0\.weight: is of the layout torch\.sparse_coo'),
        (
            lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
            r'0\.weight: is quantised',
        ),
        (lambda weight: torch.nested.nested_tensor([weight]), r'0\.weight: is nested'),
        (lambda weight: 'none', r'0\.weight: is a str, not a tensor'),
        (lambda weight: torch.full_like(weight, 1e300, dtype=torch.float64), '36 infinite of 36'),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_weights_of_another_kind_are_refused(tmp_path: Path, model, change, said) -> None:
    state = dict(model.state_dict())
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': {**state, '0.weight': change(state['0.weight'])}}, path)
    with pytest.raises(InputError, match=rf'other\.pth: (.*\n  )?.*({said})'):
        load_weights(model, path)


def test_masks_may_be_infinite_and_half_precision_is_real(tmp_path: Path, model) -> None:
    model.register_buffer('mask', torch.full((2, 2), float('-inf')))
    path = tmp_path / 'half.pth'
    torch.save({'state_dict': {n: t.half() for n, t in model.state_dict().items()}}, path)
    load_weights(model, path)
    state = dict(model.state_dict())
    torch.save({**state, '0.weight': state['0.weight'].to(torch.float8_e4m3fn)}, path)
    load_weights(model, path)


def test_parameters_without_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r'has no numbers, it is on the device "meta"'):
        new_pruner().prepare_from_supernet(small_network().to('meta'), torch.randn(1, 3, 8, 8))
    lazy = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(InputError, match=r'0\.weight: has no shape yet: run the network once'):
        new_pruner().prepare_from_supernet(lazy, torch.randn(1, 3, 8, 8))
