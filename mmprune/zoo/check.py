"""Prune one network of the zoo and measure how much of it goes, and how exactly."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import PRUNERS
from mmprune.zoo.independent import zeroed
from mmprune.zoo.models import ZOO, build, images, resolve

DOUBLE_BAR, SINGLE_BAR = 1e-10, 1e-5
"""Allowed relative error in float64 and in float32."""
SIGNAL_BAR = 1e-4
"""What an output must differ by from zero, between images and between widths, to prove anything:
a fault of a millionth in the part that depends on the image is then still above 1e-10."""
SCATTERED_BAR = 0.8
"""Share of the groups that must keep other than their first channels."""
ALLOWED_REASONS = {'output of the network': 'output', 'is an input of the network': 'input'}
"""Why a group of the networks in ``ZOO`` may be pinned, and a word for it; anything else is a
missed chance."""


@dataclass(frozen=True)
class ZooResult:
    """What pruning one network gave.

    Attributes:
        model: Its config under mmcls's ``_base_/models``.
        size: Height and width of the images.
        groups: Number of channel groups.
        pinned: The groups that cannot be pruned, and why.
        params: Parameters of the full network and of the deployed one.
        macs: Multiply-adds of the whole batch, likewise.
        slice_error: Largest relative difference of the sliced supernet to the deployed
            network, float64.
        mask_error: That of the masked supernet.
        independent_error: That of the full network with zeros, see ``independent``.
        single_error: The larger one of the two in float32.
        signal: The smallest of: the output's size, how much it depends on the image, and
            how much the subnet's differs from the full network's; the last two relative.
        scattered: Share of the prunable groups that do not keep their first channels.
        prepare_seconds: What tracing, patching, trying and setting the subnet took.
        seconds: What everything took.
        problems: Every bar that was missed, in words.
    """

    model: str
    size: int
    groups: int
    pinned: Mapping[str, str]
    params: tuple[int, int]
    macs: tuple[int, int]
    slice_error: float
    mask_error: float
    independent_error: float
    single_error: float
    signal: float
    scattered: float
    prepare_seconds: float
    seconds: float
    problems: tuple[str, ...] = ()


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference of two tensors over their largest magnitude; infinite if not finite."""
    if first.shape != second.shape:
        return float('inf')
    scale = torch.maximum(first.abs().max(), second.abs().max())
    value = float((first - second).abs().max() / scale)
    return value if value == value else float('inf')


def run(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The network's output as one (N, features) tensor."""
    return counted_run(model, batch)[0]


def counted_run(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The network's output, and its multiply-adds as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = model(batch)
    parts = output if isinstance(output, tuple | list) else (output,)
    flops = int(counter.get_total_flops())
    return torch.cat([part.flatten(1) for part in parts], dim=1), flops // 2


@dataclass(frozen=True)
class Measured:
    """A supernet at one subnet, the network deployed from it, and how far they are apart."""

    pruner: StructurePruner
    deployed: nn.Module
    output: torch.Tensor
    macs: int
    slice_error: float
    mask_error: float
    prepare_seconds: float


def prepared(
    model: nn.Module, batch: torch.Tensor, ratio: float, seed: int, execution: str = 'slice'
) -> StructurePruner:
    """A pruner with ``model`` as its supernet, all groups at ``ratio``, any channels kept."""
    pruner: StructurePruner = PRUNERS.build(
        dict(
            _scope_='mmprune',
            type='RatioPruner',
            ratios=[ratio],
            importance=dict(type='RandomImportance', seed=seed),
            execution=execution,
        )
    )
    pruner.prepare_from_supernet(model, demo_input=batch)
    pruner.set_min_channel()
    return pruner


def measure(model: nn.Module, batch: torch.Tensor, ratio: float, seed: int) -> Measured:
    """Prepare ``model`` in place, deploy a subnet of any ``ratio`` of its channels, compare.

    Args:
        model: A plain network.
        batch: The demo input, and what is compared on.
        ratio: Share of its channels that every group keeps.
        seed: Says which.
    """
    prepared(model, batch, ratio, seed, 'mask')
    masked = run(model, batch)
    started = time.perf_counter()
    pruner = prepared(model, batch, ratio, seed)
    seconds = time.perf_counter() - started
    sliced = run(model, batch)
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    output, macs = counted_run(deployed, batch)
    errors = difference(sliced, output), difference(masked, output)
    return Measured(pruner, deployed, output, macs, *errors, seconds)


def check_model(name: str, ratio: float = 0.5, seed: int = 0, size: int | None = None) -> ZooResult:
    """Prune one network and compare it with itself, deployed, in four ways.

    Args:
        name: A config under mmcls's ``_base_/models``.
        ratio: Share of its channels that every group keeps.
        seed: Of the network's numbers, of the images and of the kept channels.
        size: Height and width of the images; the smallest that the network accepts if None.

    Raises:
        InputError: There is no such config, or its network accepts no image.
    """
    started = time.perf_counter()
    name = resolve(name)
    original = build(name, seed)
    batch = images(original, size, seed=seed)
    full_params = count_params(original)
    full_output, full_macs = counted_run(original, batch)

    double = measure(copy.deepcopy(original), batch, ratio, seed)
    pruner, channel_cfg = double.pruner, double.pruner.export_subnet()
    independent = run(zeroed(original, channel_cfg), batch)
    costs = {
        'full': (pruner.cost(widest(pruner)), {'params': full_params, 'macs': full_macs}),
        'deployed': (
            pruner.cost(),
            {'params': count_params(double.deployed), 'macs': double.macs},
        ),
    }
    single = prepared(original.float(), batch.float(), ratio, seed)
    single_report = single.verify_subnet(subnet=single.current_subnet())
    result = ZooResult(
        model=name,
        size=batch.shape[-1],
        groups=len(pruner.channel_groups),
        pinned={i: group.reason for i, group in pruner.channel_groups.items() if group.reason},
        params=(full_params, costs['deployed'][1]['params']),
        macs=(full_macs, costs['deployed'][1]['macs']),
        slice_error=double.slice_error,
        mask_error=double.mask_error,
        independent_error=difference(independent, double.output),
        single_error=single_report.max_rel_err,
        signal=signal(double.output, full_output),
        scattered=scattered(pruner.current_subnet()),
        prepare_seconds=double.prepare_seconds,
        seconds=time.perf_counter() - started,
    )
    problems = problems_of(result, ratio)
    for which, (said, counted) in costs.items():
        if said != counted:
            problems.append(f'cost() says {said}, the {which} network has {counted}')
    if single.export_subnet() != channel_cfg:
        problems.append('the float32 network has other groups, or kept other channels')
    return replace(result, problems=tuple(problems))


def widest(pruner: StructurePruner) -> Subnet:
    """The subnet that keeps everything."""
    return {space_id: torch.ones_like(mask) for space_id, mask in pruner.channel_spaces.items()}


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def signal(output: torch.Tensor, full_output: torch.Tensor) -> float:
    """How much a subnet's output says: the smallest of its size and two relative differences.

    They are the difference of its first two images' outputs and that to the full network's:
    an output that hardly depends on the channels would be exact whatever is removed.
    """
    return min(
        float(output.abs().max()), difference(output[0], output[1]), difference(output, full_output)
    )


def scattered(subnet: Subnet) -> float:
    """Share of the groups in which the kept channels are not the first ones."""
    masks = [mask.flatten().bool() for mask in subnet.values()]
    return sum(not bool(mask[: int(mask.sum())].all()) for mask in masks) / max(1, len(masks))


def problems_of(result: ZooResult, ratio: float) -> list[str]:
    """Every bar that a result misses, in words."""
    problems = []
    for what, error, bar in (
        ('sliced supernet', result.slice_error, DOUBLE_BAR),
        ('masked supernet', result.mask_error, DOUBLE_BAR),
        ('full network with zeros', result.independent_error, DOUBLE_BAR),
        ('supernet in float32', result.single_error, SINGLE_BAR),
    ):
        if not error <= bar:
            problems.append(f'{what} is {error:.1e} off the deployed network, allowed {bar:.0e}')
    if not result.signal >= SIGNAL_BAR:
        problems.append(f'the output says too little to prove anything: {result.signal:.1e}')
    if result.scattered < SCATTERED_BAR:
        problems.append(f'only {result.scattered:.0%} of the groups keep other than their first')
    if result.model in ZOO and ratio <= 0.5:
        kept, most = result.params[1] / result.params[0], ZOO[result.model]
        if kept > most:
            problems.append(f'keeps {kept:.3f} of the parameters, allowed {most}')
        other = [f'{i} ({why})' for i, why in result.pinned.items() if why not in ALLOWED_REASONS]
        if other:
            problems.append(f'pins more than inputs and outputs: {", ".join(other)}')
    return problems
