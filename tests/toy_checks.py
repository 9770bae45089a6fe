"""What is proven of every toy network: its groups, and that all its subnets are exact."""

import io
import pickle

import torch
from randomised import randomise, scattered
from torch.utils.flop_counter import FlopCounterMode

from mmprune.deploy import ChannelCfg, deploy
from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model, tensors_in


def demo_input(toy):
    if toy.INPUT is not None:
        return torch.randn(toy.INPUT, dtype=torch.float64)
    return toy.data()


def prepared(toy, execution='slice', **options):
    """A toy network with random weights, its input, and a pruner that it is prepared by."""
    torch.manual_seed(0)
    model = randomise(toy().double()).eval()
    data = demo_input(toy)
    settings = dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution)
    pruner = PRUNERS.build(settings | toy.OPTIONS | options)
    pruner.prepare_from_supernet(model, data)
    return model, data, pruner


def assert_groups(toy, pruner):
    """The groups are those written beside the toy, and what is pinned has its reason."""
    groups = pruner.channel_groups
    found = {
        space_id: (group.num_channels, set(group.layers), set(group.consumers))
        for space_id, group in groups.items()
        if group.prunable
    }
    assert found == toy.GROUPS
    pinned = {space_id: group.reason for space_id, group in groups.items() if not group.prunable}
    assert pinned.keys() == toy.PINNED | toy.REASONS.keys()
    assert all(pinned.values())
    for space_id, reason in toy.REASONS.items():
        assert reason in pinned[space_id], pinned[space_id]


def assert_exact(toy, model, data, pruner, seeds):
    """Supernet and deployed network agree at random subnets, of which each removes something."""
    with torch.no_grad():
        full = tensors_in(run_model(model, data))
    for seed in range(seeds):
        subnet = scattered(pruner, seed)
        assert all(not mask.all() for mask in subnet.values()), 'a group cannot lose anything'
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        assert_same_network(deployed, deploy(model, ChannelCfg(pruner.export_subnet())))
        with FlopCounterMode(display=False) as counter:
            small = [tensor.detach() for tensor in tensors_in(run_model(deployed, data))]
        with torch.no_grad():
            inside = tensors_in(run_model(model, data))
        for ours, theirs, before in zip(inside, small, full, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
            assert ours.abs().max() > 1e-3
            assert not torch.allclose(ours, before, rtol=1e-3), 'the subnet removed nothing'
        cost = pruner.cost(subnet)
        assert cost['params'] == sum(p.numel() for p in deployed.parameters())
        assert 2 * cost['macs'] == counter.get_total_flops() - toy.UNCOUNTED
    assert pruner.verify_subnet(model, subnet).ok


def assert_same_network(first, second):
    """Two networks have the same tensors, and the same numbers among their attributes."""
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for (name, one), other in zip(first.named_modules(), second.modules(), strict=True):
        assert type(one) is type(other), name
        assert vars(one).keys() == vars(other).keys(), name
        for attribute, value in vars(one).items():
            several = value if isinstance(value, list | tuple) else [value]
            if all(isinstance(each, int | float | str) for each in several):
                assert value == vars(other)[attribute], f'{name}.{attribute}'


def assert_plain(toy, model, data, pruner):
    """The deployed network has storage of its own, no trace of mmprune, and a smaller file."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    for name, tensor in deployed.state_dict().items():
        assert tensor.untyped_storage().data_ptr() not in own, name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
    plain = toy()
    for module, other in zip(deployed.modules(), plain.modules(), strict=True):
        assert module.__dict__.keys() == other.__dict__.keys()
        assert len(module._forward_hooks) == 0
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    if toy.PICKLES:
        unpickled = pickle.loads(pickle.dumps(deployed))
        results = [tensors_in(run_model(network.eval(), data)) for network in (deployed, unpickled)]
        torch.testing.assert_close(*results, rtol=0, atol=0)
    assert set(deployed.state_dict()) == set(plain.state_dict())
    pruner.set_max_channel()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    for (name, ours), theirs in zip(deployed.named_parameters(), plain.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad, name
    sizes = []
    for network in (plain.double(), deployed):
        file = io.BytesIO()
        torch.save({n: t.numpy().tobytes() for n, t in network.state_dict().items()}, file)
        sizes.append(file.tell())
    assert sizes[1] < sizes[0]


def train_step(model, data, learning_rate=1e-2):
    """One step of gradient descent on a loss that every output enters."""
    model.train()
    outputs = tensors_in(run_model(model, data))
    loss = sum((out - 0.3).square().mean() for out in outputs)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.requires_grad:
                parameter -= learning_rate * parameter.grad
    return loss.detach()


def assert_trains(model, data, pruner):
    """Two steps in the supernet, then deploy; or deploy, then two steps: the same network."""
    pruner.set_subnet(scattered(pruner))
    cfg = pruner.export_subnet()
    deployed = pruner.deploy_subnet(model, cfg)
    start = {name: value.clone() for name, value in deployed.state_dict().items()}
    for _ in range(2):
        inside, outside = train_step(model, data), train_step(deployed, data)
        torch.testing.assert_close(inside, outside, rtol=1e-9, atol=1e-12)
    again = pruner.deploy_subnet(model, cfg)
    for (name, ours), theirs in zip(
        again.state_dict().items(), deployed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: n + m)
    assert any((value != start[name]).any() for name, value in again.state_dict().items())
