"""Training steps in which widths are learned, beside those of the plain networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from mmprune.bench.autoslim import labelled, training_step
from mmprune.bench.networks import network_of, title_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.latency.timing import Call, interleaved
from mmprune.models.norm_statistics import kept_norm_statistics
from mmprune.registry import PRUNERS

TARGET = 1.3
HALF = dict(budget=dict(macs=0.5), except_start_keys=['head.fc'])


def learned_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks:
        yield f'{title_of(name)}, steps that learn widths', partial(learned_rows, name, options)


def learned_rows(name: str, options: BenchOptions) -> Iterator[Row]:
    """Group Fisher and DMCP at full width, DCFF with half of the MACs."""
    batch = options.batches[-1]
    data = labelled(batch, options.size, options.device)
    plain = training_step(network_of(name, options.device), data)

    fisher, pruner = _prepared(name, options, type='ImportancePruner', importance='GroupFisher')
    listened = partial(_listened, training_step(fisher, data), fisher, pruner)

    chains, markov = _prepared(name, options, type='MarkovPruner')

    mixed, fusion = _prepared(
        name, options, type='ImportancePruner', importance='Fusion', scope='local'
    )
    subnet, supernet = fusion.prune(), fusion.supernet
    small = fusion.deploy_subnet(mixed, fusion.export_subnet())
    supernet.execution.mix(fusion.importance.mixings(supernet.groups, mixed, subnet))
    fusion.set_subnet(subnet)

    calls: dict[str, Call] = {
        'plain': plain,
        'deployed': training_step(small, data),
        'Group Fisher: a step that is listened to': listened,
        'DMCP: a step of the chains': partial(_softened, chains.train(), markov, data),
        'DCFF: a step of the mixtures': training_step(mixed, data),
    }
    times = interleaved(calls, 2 * options.seconds, options.device)
    for what in [what for what in times if ':' in what]:
        for against in ('plain', 'deployed') if what.startswith('DCFF') else ('plain',):
            yield Row.timed(
                'execution',
                f'{title_of(name)}, batch {batch}',
                what,
                times[what],
                against=f'a step of the {against} network',
                reference=times[against],
                most=TARGET if against == 'plain' else None,
            )


def _prepared(name: str, options: BenchOptions, **pruner: Any) -> tuple[Any, Any]:
    """A network, and a pruner that has prepared it."""
    network = network_of(name, 'cpu')
    prepared = PRUNERS.build({'_scope_': 'mmprune'} | HALF | pruner)
    prepared.prepare_from_supernet(network, torch.rand(1, 3, options.size, options.size))
    return network.to(options.device), prepared


def _listened(step: Call, model: nn.Module, pruner: Any) -> None:
    with pruner.importance.listening(model, pruner.channel_groups):
        step()
    pruner.importance.reset()


def _softened(model: Any, pruner: Any, data: dict[str, Any]) -> None:
    """As the hook ``DMCP`` does it."""
    inputs = model.data_preprocessor(data, True)
    with kept_norm_statistics(model), pruner.softened():
        loss = model.parse_losses(model(**inputs, mode='loss'))[0]
        torch.autograd.grad(loss, pruner.logits)
    torch.autograd.grad(pruner.expected_cost()['macs'], pruner.logits)
