"""Models that are wrapped already: distributed, or compiled as a whole or in parts."""

import pytest
import torch
import toys_functions
import toys_norms
from randomised import randomise, scattered
from torch import distributed, nn
from toy_checks import demo_input, prepared
from toy_networks import Chain, conv

from mmprune.errors import InputError
from mmprune.registry import PRUNERS


@pytest.fixture
def one_process(tmp_path):
    store = f'file://{tmp_path}/store'
    distributed.init_process_group('gloo', init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def prepared_after(wrap, execution, network=Chain):
    """A network that was wrapped, and run, before it is prepared."""
    torch.manual_seed(0)
    model = randomise(network().double()).eval()
    data = demo_input(Chain)
    wrapped = wrap(model)
    with torch.no_grad():
        full = wrapped(data)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(wrapped, data)
    assert pruner.supernet.model is model
    with torch.no_grad():
        torch.testing.assert_close(wrapped(data), full, rtol=1e-12, atol=1e-12)
    return wrapped, model, data, pruner


def assert_follows(wrapped, model, data, pruner, seeds=2):
    """The wrapper runs, and trains, as the subnet that is set."""
    for seed in range(seeds):
        pruner.set_subnet(scattered(pruner, seed))
        deployed = pruner.deploy_subnet(wrapped, pruner.export_subnet())
        with torch.no_grad():
            torch.testing.assert_close(wrapped(data), deployed(data), rtol=1e-10, atol=1e-12)
    for network in (wrapped, deployed):
        network.train()
        network.zero_grad()
        network(data).square().mean().backward()
    for group in pruner.channel_groups.values():
        if group.prunable:
            kept = pruner.current_subnet()[group.space_id].flatten().bool()
            full, small = (n.get_parameter(f'{group.space_id}.bias') for n in (model, deployed))
            torch.testing.assert_close(full.grad[kept], small.grad, rtol=1e-9, atol=1e-12)
            assert not full.grad[~kept].any()


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_distributed_data_parallel(execution, one_process):
    wrapped, model, data, pruner = prepared_after(nn.parallel.DistributedDataParallel, execution)
    assert list(pruner.channel_spaces) == ['a', 'b']
    assert_follows(wrapped, model, data, pruner)


@pytest.mark.parametrize('wrap', [nn.parallel.DistributedDataParallel, nn.DataParallel])
def test_parallel_after_it_was_prepared(wrap, one_process):
    model, data, pruner = prepared(Chain, 'slice')
    assert_follows(wrap(model), model, data, pruner)
    with pytest.raises(InputError, match='DataParallel copies a network for several devices'):
        model._replicate_for_data_parallel()(data)


# torch's compiler looks at gradients of tensors that have none.
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor')
@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_compiled(execution, fresh_compiler):
    wrapped, model, data, pruner = prepared_after(
        lambda model: torch.compile(model, backend='eager'), execution
    )
    assert list(pruner.channel_spaces) == ['a', 'b']
    assert_follows(wrapped, model, data, pruner)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class WithAFunction(Parts):
    """A function that its forward calls is compiled, and none of its modules."""

    def __init__(self):
        super().__init__()
        self.pooled = torch.compile(lambda x: (x.relu() + 1).mean((2, 3)), backend='eager')

    def forward(self, x):
        return self.head(self.pooled(self.body(x)))


def test_a_compiled_function_is_looked_into(fresh_compiler):
    model = WithAFunction().double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.rand(2, 3, 8, 8).double())
    assert list(pruner.channel_spaces) == ['body.0', 'body.3']
    assert pruner.verify_subnet(model).ok


def compile_a_part(model):
    model.body = torch.compile(model.body, backend='eager')
    return model


def compile_a_part_in_place(model):
    model.body.compile(backend='eager')
    return model


@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor')
@pytest.mark.parametrize(
    ('wrap', 'groups'),
    [
        (compile_a_part, ['body._orig_mod.0', 'body._orig_mod.3']),
        (compile_a_part_in_place, ['body.0', 'body.3']),
    ],
)
def test_compiled_in_parts(wrap, groups, fresh_compiler):
    """Tracing and trying look inside; the parts stay compiled."""
    wrapped, model, data, pruner = prepared_after(wrap, 'slice', Parts)
    assert list(pruner.channel_spaces) == groups
    assert pruner.verify_subnet(model).ok
    assert_follows(wrapped, model, data, pruner, seeds=1)


@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor')
@pytest.mark.parametrize('toy', [toys_norms.RootMeanSquare, toys_functions.NewWeightNorm])
def test_masked_norms_and_functions_are_compiled_once(toy, fresh_compiler):
    model, data, pruner = prepared(toy, 'mask')
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    for seed in range(3):
        pruner.set_subnet(scattered(pruner, seed))
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        with torch.no_grad():
            torch.testing.assert_close(compiled(data), deployed(data), rtol=1e-10, atol=1e-12)
    assert len(graphs) == 1


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_programs_without_tensors_stay_as_they_are(execution):
    """An activation that is a program of torch.jit."""

    def scripted(model):
        model.norm = nn.Sequential(model.norm, torch.jit.script(nn.SiLU()))
        return model

    assert_follows(*prepared_after(scripted, execution))
