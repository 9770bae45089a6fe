"""A pruner in a search of one's own: no runner, a plain loop or Optuna's ask and tell."""

import itertools

import numpy as np
import optuna
import pytest
import torch
from exactness import randomise
from torch import nn

from mmprune.errors import InputError
from mmprune.pruners import ImportancePruner, RatioPruner, StructurePruner
from mmprune.search import evaluate_subnet

SHAPE = (2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.tail = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.tail(self.body(x))).mean((2, 3)))


@pytest.fixture
def pruner() -> RatioPruner:
    torch.manual_seed(0)
    network = Net().eval()
    randomise(network)
    pruner = RatioPruner(ratios=[0.25, 0.5, 0.75, 1.0], importance='L1')
    pruner.prepare_from_supernet(network, torch.rand(SHAPE))
    return pruner


def test_the_space_lists_widths_and_costs(pruner: RatioPruner) -> None:
    space = pruner.search_space()
    assert dict(space) == {'stem.0': (2, 4, 6, 8), 'body.0': (3, 6, 9, 12)}
    assert space.size == 16
    assert space.costs['largest'] == pruner.cost(pruner.subnet_from({}))
    assert space.costs['smallest'] == pruner.cost(pruner.subnet_of_ratio(0.25))
    assert 'body.0: 3, 6, 9, 12' in str(space)
    assert '16 subnets' in str(space)
    assert 'median: ' in str(space)
    # The masks are those of the importance, not the first channels.
    subnet = space.subnet({'stem.0': 4})
    assert torch.equal(subnet['stem.0'], pruner.subnet_from({'stem.0': 4})['stem.0'])
    assert not torch.equal(subnet['stem.0'].flatten(), torch.tensor([1.0] * 4 + [0.0] * 4))
    assert subnet['body.0'].all()


def test_the_space_begins_at_the_pruned_subnet_and_is_rounded(pruner: RatioPruner) -> None:
    other = ImportancePruner(ratio={'stem.0': 0.5, 'body.0': 1.0}, round_to=4)
    other.prepare_from_supernet(pruner.supernet.model, torch.rand(SHAPE))
    assert dict(other.search_space()) == {'stem.0': (4, 8), 'body.0': (12,)}
    assert dict(other.search_space([0.6, 1.0])) == {'stem.0': (4, 8), 'body.0': (12,)}


@pytest.mark.parametrize('limits', [{'macs': 0.4}, {'params': 0.3}, {'macs': 0.5, 'params': 0.6}])
def test_what_is_repaired_is_within_the_budget_and_no_step_is_left(
    pruner: StructurePruner, limits: dict[str, float]
) -> None:
    space = pruner.search_space()
    full = space.costs['largest']

    def fits(choices: dict[str, int]) -> bool:
        cost = pruner.cost(space.subnet(choices))
        return all(cost[name] <= share * full[name] for name, share in limits.items())

    for widths in itertools.product(*space.values()):
        wish = dict(zip(space, widths, strict=True))
        found = pruner.repair(wish, limits, space)
        assert fits(found)
        assert all(found[space_id] <= wish[space_id] for space_id in space)
        if fits(wish):
            assert found == wish
        for space_id, choices in space.items():
            wider = [width for width in choices if found[space_id] < width <= wish[space_id]]
            assert not wider or not fits({**found, space_id: wider[0]})


def test_numbers_between_choices_stand_for_the_nearest(pruner: StructurePruner) -> None:
    assert pruner.repair({'stem.0': 7, 'body.0': 8}, {'macs': 1}) == {'stem.0': 6, 'body.0': 9}


@pytest.mark.parametrize(
    ('wish', 'budget', 'message'),
    [
        ({'stem': 4}, {'macs': 0.5}, r"no prunable group 'stem'; did you mean 'stem\.0'"),
        ({'stem.0': 0}, {'macs': 0.5}, r"'stem\.0' cannot keep 0 channels"),
        ({}, {'macs': 0.01}, 'no subnet is within the budget: the smallest one costs'),
        ({}, {'flops': 0.5}, 'two FLOPs'),
    ],
)
def test_wishes_and_budgets_that_make_no_sense(
    pruner: StructurePruner, wish: dict[str, int], budget: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pruner.repair(wish, budget)


def test_a_group_cannot_keep_more_than_it_has(pruner: StructurePruner) -> None:
    with pytest.raises(InputError, match=r"'stem\.0' cannot keep 9 channels of 8"):
        pruner.subnet_from({'stem.0': 9})


@pytest.mark.parametrize('compensation', [None, 'LeastSquares'])
def test_a_subnet_is_judged_as_it_would_be_deployed(
    pruner: StructurePruner, compensation: str | None
) -> None:
    network = pruner.supernet.model.double().train()
    batches = [torch.rand(SHAPE, dtype=torch.float64) for _ in range(3)]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    subnet = pruner.subnet_from({'stem.0': 3, 'body.0': 5})
    seen = []

    def metric(model: nn.Module) -> float:
        assert not model.training
        seen.append(model(batches[0]))
        return float(seen[0].sum())

    labelled = [(batch, torch.zeros(len(batch))) for batch in batches]
    found = evaluate_subnet(pruner, subnet, metric, labelled, compensation)

    assert network.training
    assert pruner.current_subnet()['stem.0'].all()
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    # By hand: the deployed network, its norms run over the batches, or its weights fitted.
    pruner.set_subnet(subnet)
    small = pruner.deploy_subnet(network.eval())
    if compensation:
        pruner.compensate(small, batches, compensation)
    else:
        for norm in (each for each in small.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches:
            small(batch)
    torch.testing.assert_close(seen[0], small.eval()(batches[0]), rtol=1e-9, atol=1e-9)
    assert found == pytest.approx(float(seen[0].sum()))


def closeness(pruner: StructurePruner, images: torch.Tensor):
    wanted = pruner.supernet.model(images).detach()
    return lambda network: -float((network(images) - wanted).square().mean())


def test_a_plain_loop(pruner: StructurePruner) -> None:
    images = torch.rand(SHAPE)
    metric = closeness(pruner, images)
    space, random = pruner.search_space(), np.random.default_rng(0)
    best = None
    for _ in range(12):
        wish = {space_id: int(random.choice(widths)) for space_id, widths in space.items()}
        choices = pruner.repair(wish, {'macs': 0.5}, space)
        score = evaluate_subnet(pruner, pruner.subnet_from(choices), metric, [images])
        if best is None or score > best[0]:
            best = score, choices
    assert best[0] < 0
    assert pruner.cost(pruner.subnet_from(best[1]))['macs'] <= space.costs['largest']['macs'] / 2


def test_ask_and_tell(pruner: StructurePruner) -> None:
    images = torch.rand(SHAPE)
    metric = closeness(pruner, images)
    space = pruner.search_space()
    study = optuna.create_study(
        directions=['maximize', 'minimize'], sampler=optuna.samplers.NSGAIISampler(seed=0)
    )
    for _ in range(10):
        trial = study.ask()
        choices = {s: trial.suggest_categorical(s, widths) for s, widths in space.items()}
        subnet = pruner.subnet_from(choices)
        score = evaluate_subnet(pruner, subnet, metric, [images])
        study.tell(trial, (score, pruner.cost(subnet)['macs']))
    full = study.best_trials[-1]
    assert full.values[1] <= space.costs['largest']['macs']
