"""What is proven of every toy network: its groups, and that all its subnets are exact."""

import io
import pickle

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmprune import testing
from mmprune.registry import PRUNERS
from mmprune.testing import assert_separate, check_subnet, outputs_of, randomise, scattered
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
    full = outputs_of(model, data)
    for seed in range(seeds):
        subnet = scattered(pruner, seed)
        deployed, _, _ = check_subnet(pruner, data, subnet, full)
        with FlopCounterMode(display=False) as counter:
            run_model(deployed, data)
        assert 2 * pruner.cost(subnet)['macs'] == counter.get_total_flops() - toy.UNCOUNTED
    assert pruner.verify_subnet(model, subnet).ok


def assert_plain(toy, model, data, pruner):
    """The deployed network has storage of its own, no trace of mmprune, and a smaller file."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    plain = toy()
    assert_separate(model, deployed, plain)
    if toy.PICKLES:
        unpickled = pickle.loads(pickle.dumps(deployed))
        results = [tensors_in(run_model(network.eval(), data)) for network in (deployed, unpickled)]
        torch.testing.assert_close(*results, rtol=0, atol=0)
    pruner.set_max_channel()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    sizes = []
    for network in (plain.double(), deployed):
        file = io.BytesIO()
        torch.save({n: t.numpy().tobytes() for n, t in network.state_dict().items()}, file)
        sizes.append(file.tell())
    assert sizes[1] < sizes[0]


def assert_trains(model, data, pruner):
    """Two steps in the supernet, then deploy; or deploy, then two steps: the same network."""
    testing.assert_trains(pruner, data, scattered(pruner))
