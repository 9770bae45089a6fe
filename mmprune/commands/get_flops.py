"""What tools/get_flops.py does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from rich.table import Table

from mmprune.channels import propagate
from mmprune.commands.configured_input import input_of
from mmprune.commands.diagnose import network_and_pruner
from mmprune.config import load_config
from mmprune.cost import CostModel
from mmprune.errors import InputError
from mmprune.randomness import seeded
from mmprune.report.tables import numbers, show
from mmprune.trace import trace


def get_flops(
    config: str | os.PathLike[str] | Config,
    input_shape: Sequence[int] | None = None,
    depth: int = 2,
    cfg_options: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Count what the network of a config costs, and print it by parts of the network.

    Args:
        config: Of any network, a deployed one, or an AutoSlim, of which the full network counts.
        input_shape: (N, C, H, W) or (C, H, W); by default the AutoSlim's, or the first
            test image's.
        depth: How many parts of a name make one row of the table.
        cfg_options: Values to set in the config, by dotted key.

    Returns:
        ``macs``, multiply-adds of convolutions, linear layers and matrix products; ``flops``,
        twice as many; ``params``.

    Raises:
        InputError: The config has no network, or it does not run on this input.
    """
    cfg = load_config(config, cfg_options)
    if depth < 1:
        raise InputError(f'--depth counts the parts of a name, 1 or more, not {depth}')
    with seeded(0):
        network, _ = network_and_pruner(cfg)
    road = input_of(cfg, network, input_shape).roads(network)[0]
    labelling = propagate(trace(network, road))
    costs = CostModel(network, labelling).layer_costs(np.ones(labelling.num_labels, bool))
    macs, params = Counter[str](), Counter[str]()
    for name, parameter in network.named_parameters():
        params[_part(name.rpartition('.')[0], depth)] += parameter.numel()
    for cost in costs:
        macs[_part(cost.layer, depth)] += cost.macs
    shape = 'x'.join(map(str, road.images.shape))
    show(_table(f'{type(network).__name__} on {shape}', macs, params))
    return {'macs': macs.total(), 'flops': 2 * macs.total(), 'params': params.total()}


def _part(name: str, depth: int) -> str:
    return '.'.join(name.split('.')[:depth])


def _table(title: str, macs: Counter[str], params: Counter[str]) -> Table:
    table = Table('part', *numbers('MACs', 'FLOPs (two a MAC)', 'parameters'), title=title)
    for part in {**params, **macs}:
        table.add_row(
            part or '(the root)', f'{macs[part]:,}', f'{2 * macs[part]:,}', f'{params[part]:,}'
        )
    table.add_section()
    table.add_row('all', f'{macs.total():,}', f'{2 * macs.total():,}', f'{params.total():,}')
    return table
