"""Setting a subnet that a search has evaluated, and timing it when it is deployed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmprune.commands.latency_report import backends_table
from mmprune.commands.subnet_times import measure_backends
from mmprune.errors import InputError
from mmprune.models import AutoSlim, Recalibration
from mmprune.models.algorithm import full_and_set_cost
from mmprune.models.demo_inputs import exported
from mmprune.report.tables import wide_console
from mmprune.search import read_candidates
from mmprune.search.candidates import Candidates
from mmprune.search.history import Evaluation, subnet_key, weights_key

SECONDS = 2.0
"""How long the networks are timed by each backend."""


def pick_subnet(
    algorithm: AutoSlim,
    cfg: Config,
    source: str | os.PathLike[str],
    how: str,
    study: str | None = None,
) -> Evaluation:
    """Set a subnet that was evaluated, whose norms will be recalibrated as they were there.

    Args:
        algorithm: The network that was searched.
        cfg: Its config.
        source: What ``read_candidates`` reads.
        how: See ``Candidates.pick``.
        study: The name of the study in a storage that has several.

    Raises:
        InputError: There is no such candidate, or it is none of this network.
    """
    search: dict[str, Any] = cfg.get('search_cfg') or {}
    full, _ = full_and_set_cost(algorithm)
    candidates = Candidates.of(
        read_candidates(source, study, weights_key(algorithm.architecture.state_dict())),
        full,
        search.get('metric', 'auto'),
        search.get('rule', 'auto'),
    )
    found = candidates.pick(how)
    pruner = algorithm.pruner
    groups = pruner.channel_spaces.keys()
    subnet = pruner.subnet_from(found.channels) if found.channels.keys() == groups else None
    if subnet is None or subnet_key(subnet) != found.key:
        raise InputError(
            f'{Path(source).name}: candidate {found.index} is no subnet of this network and '
            'checkpoint: give those that were searched'
        )
    pruner.set_subnet(subnet)
    if search.get('recalibration'):
        algorithm.recalibration = Recalibration(**search['recalibration'])
    print(
        f'{how} of {len(candidates.evaluations)} candidates: number {found.index}, '
        f'{candidates.metric} {found.metric:.4f}, {found.macs:,} MACs '
        f'({found.macs / full["macs"]:.1%})'
    )
    return found


def full_network(algorithm: AutoSlim) -> nn.Module:
    """The network at full width, plain, with the norm statistics of now; it is set."""
    algorithm.pruner.set_max_channel()
    return algorithm.pruner.deploy_subnet(algorithm.architecture).eval()


def show_times(full: nn.Module, algorithm: AutoSlim, is_onnx: bool) -> None:
    """Print how long the full network takes, and the subnet that is set when it is deployed."""
    small = algorithm.pruner.deploy_subnet(algorithm.architecture).eval()
    networks = {'full network': full, 'subnet': small}
    road = exported(small, algorithm.roads[0])
    backends = ('torch', 'onnxruntime') if is_onnx else ('torch',)
    times, missing = measure_backends(networks, road, backends, SECONDS)
    console = wide_console()
    console.print(backends_table(times))
    for reason in missing:
        console.print(f'not measured: {reason}', soft_wrap=True, markup=False)
