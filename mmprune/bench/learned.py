"""Training steps in which widths are learned, beside those of the plain networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from mmprune.bench.autoslim import Training, labelled
from mmprune.bench.execution import NAMES, ExecutionOptions, Step
from mmprune.bench.networks import network_of
from mmprune.bench.rows import Row
from mmprune.latency.timing import Call, interleaved
from mmprune.models.norm_statistics import kept_norm_statistics
from mmprune.registry import PRUNERS

TARGET = 1.3
HALF = dict(budget=dict(macs=0.5), except_start_keys=['head.fc'])


def learned_steps(options: ExecutionOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks:
        title = f'{NAMES.get(name, name)}, steps that learn widths'
        yield title, partial(learned_rows, name, options)


def learned_rows(name: str, options: ExecutionOptions) -> Iterator[Row]:
    """Group Fisher and DMCP at full width, DCFF with half of the MACs."""
    batch = options.batches[-1]
    data = labelled(batch, options.size, options.device)
    calls: dict[str, Call] = {'plain': _training(name, data, options)[0].step}

    fisher, pruner = _training(
        name, data, options, type='ImportancePruner', importance='GroupFisher'
    )
    calls['Group Fisher: a step that is listened to'] = partial(_listened, fisher, pruner)

    chains, markov = _training(name, data, options, type='MarkovPruner')
    calls['DMCP: a step of the chains'] = partial(_softened, chains, markov)

    mixed, pruner = _training(
        name, data, options, type='ImportancePruner', importance='Fusion', scope='local'
    )
    pruner.prune()
    plain = pruner.deploy_subnet(mixed.model, pruner.export_subnet())
    supernet = pruner.supernet
    supernet.execution.mix(pruner.importance.mixings(supernet.groups, supernet.model))
    supernet.set_alive(supernet.alive)
    calls['DCFF: a step of the mixtures'] = mixed.step
    calls['deployed'] = Training.of(plain, data).step

    times = interleaved(calls, 2 * options.seconds, options.device)
    for what in [what for what in times if ':' in what]:
        against = 'deployed' if 'DCFF' in what else 'plain'
        yield Row(
            'execution',
            f'{NAMES.get(name, name)}, batch {batch}',
            what,
            1e3 * times[what].median,
            against=f'a step of the {against} network',
            reference=1e3 * times[against].median,
            most=TARGET,
            rounds=len(times[what].seconds),
            spread=times[what].spread,
        )


def _training(
    name: str, data: dict[str, Any], options: ExecutionOptions, **pruner: Any
) -> tuple[Training, Any]:
    """A network in training, and the pruner that has prepared it, if one is wanted."""
    network, prepared = network_of(name, 'cpu'), None
    if pruner:
        prepared = PRUNERS.build({'_scope_': 'mmprune', **HALF, **pruner})
        prepared.prepare_from_supernet(network, torch.rand(1, 3, options.size, options.size))
    return Training.of(network.to(options.device), data), prepared


def _listened(training: Training, pruner: Any) -> None:
    with pruner.importance.listening(training.model, pruner.channel_groups):
        training.step()
    pruner.importance.reset()


def _softened(training: Training, pruner: Any) -> None:
    """As the hook ``DMCP`` does it."""
    model = training.model
    data = model.data_preprocessor(training.data, True)
    with kept_norm_statistics(model), pruner.softened():
        loss = model.parse_losses(model(**data, mode='loss'))[0]
        torch.autograd.grad(loss, pruner.logits)
    torch.autograd.grad(pruner.expected_cost()['macs'], pruner.logits)
