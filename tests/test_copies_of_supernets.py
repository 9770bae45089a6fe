"""A supernet in another type, on another device, copied, averaged, pickled, distributed."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import load_checkpoint
from randomised import randomise, scattered
from saved_supernets import (
    DATA,
    Network,
    assert_equal,
    contents,
    kept,
    masks_of,
    saved_supernet,
    supernet,
)
from torch import distributed, nn

from mmprune.errors import InputError


@pytest.fixture
def checkpoint(tmp_path):
    return saved_supernet(tmp_path)


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
    model.load_state_dict(torch.load(path, weights_only=True))
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
        copied.load_state_dict(source.state_dict() | {'norm.out_mask': torch.ones(1, 8, 1, 1)})
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
