"""A supernet's checkpoint holds its masks, and the pruner follows what is loaded."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from randomised import randomise, scattered
from torch import distributed, nn

from mmprune.errors import InputError
from mmprune.registry import PRUNERS

DATA = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(inputs, outputs, kernel=3, **kwargs):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


class Network(nn.Module):
    """Convolutions, both kinds of norm, a grouped convolution, a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.b, self.group_norm = conv(8, 12), nn.GroupNorm(3, 12)
        self.c, self.fc, self.head = conv(12, 8, groups=2), nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.group_norm(self.b(x)))
        return self.head(torch.relu(self.fc(self.c(x).mean((2, 3)))))


class Algorithm(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        self.first = nn.BatchNorm1d(2)
        self.architecture = architecture

    def forward(self, x):
        return self.architecture(x)


def supernet(seed=0, execution='slice', wrap=lambda network: network):
    """A prepared network in eval mode and in double precision, and its pruner."""
    model = wrap(randomise(Network().double(), seed)).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, DATA)
    return model, pruner


def kept(subnet):
    return {space_id: mask.flatten().tolist() for space_id, mask in subnet.items()}


def masks_of(model):
    return {k: v for k, v in model.state_dict().items() if k.endswith('_mask')}


def contents(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=f'{name} differs')


@pytest.fixture
def checkpoint(tmp_path):
    """A supernet with a subnet set, and the file of its state dict."""
    model, pruner = supernet(seed=1)
    pruner.set_subnet(scattered(pruner))
    torch.save(model.state_dict(), tmp_path / 'supernet.pth')
    return model, pruner, tmp_path / 'supernet.pth'


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


# -- another type, another device ------------------------------------------------------


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_supernet_can_change_its_type(dtype, execution):
    model, pruner = supernet(execution=execution)
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    expected = model(DATA).detach()
    model.to(dtype)
    found = model(DATA.to(dtype)).detach()
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype] * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    assert kept(pruner.current_subnet()) == kept(subnet)
    pruner.set_max_channel()
    pruner.set_subnet(subnet)
    torch.testing.assert_close(model(DATA.to(dtype)).detach(), found, rtol=0, atol=0)


def test_a_supernet_is_verified_in_the_type_that_it_has_now():
    model, pruner = supernet()
    report = pruner.verify_subnet(model.float())
    assert report.ok, report
    assert report.tolerance == 1e-5
    report = pruner.verify_subnet(model.double())
    assert report.ok, report
    assert report.max_rel_err < 1e-10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_a_supernet_can_move_to_a_gpu(execution, checkpoint):
    source, source_pruner, path = checkpoint
    model, pruner = supernet(execution=execution)
    model.cuda()
    load_by_torch(model, path)
    assert all(mask.is_cuda for mask in masks_of(model).values())
    torch.testing.assert_close(model(DATA.cuda()).cpu(), source(DATA), rtol=1e-9, atol=1e-11)
    subnet = {space_id: mask.cuda() for space_id, mask in source_pruner.current_subnet().items()}
    pruner.set_max_channel()
    pruner.set_subnet(subnet)
    torch.testing.assert_close(model(DATA.cuda()).cpu(), source(DATA), rtol=1e-9, atol=1e-11)
    model.train()(DATA.cuda()).sum().backward()
    assert pruner.verify_subnet(model).ok


# -- copies ----------------------------------------------------------------------------


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_a_deep_copy_is_a_supernet_of_its_own(execution, checkpoint):
    source, _, _ = checkpoint
    model, pruner = supernet(seed=2, execution=execution)
    subnet = scattered(pruner, seed=7)
    pruner.set_subnet(subnet)
    copied = copy.deepcopy(model)
    before, expected = contents(model), model(DATA)
    torch.testing.assert_close(copied(DATA), expected, rtol=0, atol=0)
    # What is loaded into the copy is followed by the copy alone.
    copied.load_state_dict(source.state_dict())
    torch.testing.assert_close(copied(DATA), source(DATA), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model(DATA), expected, rtol=0, atol=0)
    assert_equal(contents(model), before)
    assert kept(pruner.current_subnet()) == kept(subnet)
    # What is set on the original does not reach the copy.
    copy_before = contents(copied)
    pruner.set_max_channel()
    model.load_state_dict(randomise(Network().double(), seed=4).state_dict())
    torch.testing.assert_close(copied(DATA), source(DATA), rtol=1e-10, atol=1e-12)
    assert_equal(contents(copied), copy_before)
    # Wrong masks are refused by the copy too.
    with pytest.raises(InputError, match='disagree'):
        copied.load_state_dict(WRONG['a member disagrees'][0](source.state_dict()))
    copied.train()(DATA).sum().backward()
    assert all(p.grad is not None for p in copied.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_a_moving_average_follows_the_weights_and_runs_as_a_supernet():
    model, pruner = supernet()
    subnet = scattered(pruner)
    pruner.set_subnet(subnet)
    average = ExponentialMovingAverage(model, momentum=0.5).eval()
    average.update_parameters(model)
    torch.testing.assert_close(average(DATA), model(DATA), rtol=0, atol=0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_parameters(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 0.5, msg=name)
    # A checkpoint of the average is one of a supernet.
    other, other_pruner = supernet(seed=2)
    other.load_state_dict(average.module.state_dict())
    assert kept(other_pruner.current_subnet()) == kept(subnet)
    torch.testing.assert_close(other(DATA), average(DATA), rtol=0, atol=0)
    restored = ExponentialMovingAverage(supernet(seed=3)[0], momentum=0.5).eval()
    restored.load_state_dict(average.state_dict())
    torch.testing.assert_close(restored(DATA), average(DATA), rtol=0, atol=0)


def test_a_supernet_refuses_to_be_pickled_and_says_what_to_do(checkpoint):
    model, pruner, _ = checkpoint
    for dump in (pickle.dumps, lambda m: torch.save(m, io.BytesIO()), copy.copy):
        if dump is copy.copy:
            assert dump(model).a is model.a  # a shallow copy shares its modules
            continue
        with pytest.raises(pickle.PicklingError, match=r'state_dict\(\).*deploy_subnet'):
            dump(model)
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    again = pickle.loads(pickle.dumps(deployed))
    torch.testing.assert_close(again(DATA), model(DATA), rtol=1e-10, atol=1e-12)


def test_a_deployed_network_has_no_hooks_and_loads_its_own_checkpoint(checkpoint):
    model, pruner, _ = checkpoint
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    for module in deployed.modules():
        hooks = {k: v for k, v in vars(module).items() if k.endswith('_hooks') and v}
        assert not hooks
    other = pruner.deploy_subnet(supernet(seed=5)[0], pruner.export_subnet())
    other.load_state_dict(deployed.state_dict())
    torch.testing.assert_close(other(DATA), model(DATA), rtol=1e-10, atol=1e-12)
    assert model._load_state_dict_pre_hooks, 'the supernet must keep its own'


# -- distributed data parallel ---------------------------------------------------------


@pytest.fixture
def one_process(tmp_path: Path):
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_distributed_training_of_subnets(execution, one_process, checkpoint):
    source, source_pruner, path = checkpoint
    alone, alone_pruner = supernet(execution=execution)
    together, pruner = supernet(execution=execution)
    parallel = nn.parallel.DistributedDataParallel(together)
    for seed in range(3):
        subnet = scattered(pruner, seed)
        alone_pruner.set_subnet(subnet)
        pruner.set_subnet(subnet)
        for model in (alone, parallel):
            model.train().zero_grad()
            model(DATA).square().mean().backward()
        for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)
    parallel.load_state_dict({f'module.{k}': v for k, v in source.state_dict().items()})
    assert kept(pruner.current_subnet()) == kept(source_pruner.current_subnet())
    load_checkpoint(parallel, str(path), strict=True)
    torch.testing.assert_close(parallel.eval()(DATA), source(DATA), rtol=1e-10, atol=1e-12)
    pruner.prepare_from_supernet(parallel, DATA)
    assert pruner.supernet.model is together
    assert pruner.get_space_id('norm') == 'a'
