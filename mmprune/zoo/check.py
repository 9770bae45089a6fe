"""Prune one network of the zoo and measure how much of it goes, and how exactly."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import PRUNERS
from mmprune.zoo.independent import zeroed
from mmprune.zoo.models import build, images, in_type, resolve
from mmprune.zoo.networks import CHOICES, ZOO, law
from mmprune.zoo.peer import PeerResult, PeerRun
from mmprune.zoo.running import count_params, counted_run, difference, run

DOUBLE_BAR, SINGLE_BAR = 1e-10, 1e-5
"""Allowed relative error in float64 and in float32."""
SIGNAL_BAR = 1e-4
"""What an output must differ by from zero, between images and between widths, to prove anything:
a fault of a millionth in the part that depends on the image is then still above 1e-10."""
SCATTERED_BAR = 0.8
"""Share of the groups that must keep other than their first channels."""
ENDS = {'output of the network': 'output', 'is an input of the network': 'input'}
"""Why a group of any network may be pinned, and a word for it; anything else is a law, see
``networks.LAWS``, or a missed chance."""


@dataclass(frozen=True)
class ZooResult:
    """What pruning one network gave.

    Attributes:
        model: Its config, see ``resolve``.
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
        choices_tipped: Whether that is above the bar and float64 shows that it is rounding.
        signal: The smallest of: the output's size, how much it depends on the image, and
            how much the subnet's differs from the full network's; the last two relative.
        scattered: Share of the prunable groups that do not keep their first channels.
        prepare_seconds: What tracing, patching, trying and setting the subnet took.
        seconds: What everything took.
        problems: Every bar that was missed, in words.
        peer: What Torch-Pruning made of the network, None if it was not asked.
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
    choices_tipped: bool = False
    problems: tuple[str, ...] = ()
    peer: PeerResult | None = None

    @property
    def kept(self) -> float:
        """Share of the parameters that the deployed network has."""
        return self.params[1] / self.params[0]

    def unexplained(self) -> dict[str, str]:
        """The pinned groups that neither an end of the network nor a law explains."""
        return {
            space_id: why
            for space_id, why in self.pinned.items()
            if why not in ENDS and law(space_id) is None
        }


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


@dataclass(frozen=True)
class Plan:
    """What is done to every network.

    Attributes:
        ratio: Share of its channels that every group keeps.
        seed: Of the network's numbers, of the images and of the kept channels.
        attention: What attention loses: ``'heads'`` or ``'dims'`` of each.
        size: Height and width of the images; the smallest that the network accepts if None.
        with_peer: Whether Torch-Pruning is asked too.
    """

    ratio: float = 0.5
    seed: int = 0
    attention: str = 'heads'
    size: int | None = None
    with_peer: bool = False


def prepared(
    model: nn.Module, batch: torch.Tensor, plan: Plan, execution: str = 'slice'
) -> StructurePruner:
    """A pruner with ``model`` as its supernet and the plan's subnet set: any channels kept."""
    pruner: StructurePruner = PRUNERS.build(
        dict(
            _scope_='mmprune',
            type='RatioPruner',
            ratios=[plan.ratio],
            importance=dict(type='RandomImportance', seed=plan.seed),
            execution=execution,
            attention=plan.attention,
        )
    )
    pruner.prepare_from_supernet(model, demo_input=batch)
    pruner.set_min_channel()
    return pruner


def measure(model: nn.Module, batch: torch.Tensor, plan: Plan) -> Measured:
    """Prepare ``model`` in place, deploy the plan's subnet, compare.

    Args:
        model: A plain network.
        batch: The demo input, and what is compared on.
        plan: Which subnet.
    """
    prepared(model, batch, plan, 'mask')
    masked = run(model, batch)
    started = time.perf_counter()
    pruner = prepared(model, batch, plan)
    seconds = time.perf_counter() - started
    sliced = run(model, batch)
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    output, macs = counted_run(deployed, batch)
    errors = difference(sliced, output), difference(masked, output)
    return Measured(pruner, deployed, output, macs, *errors, seconds)


def check_model(name: str, plan: Plan | None = None) -> ZooResult:
    """Prune one network and compare it with itself, deployed, in four ways.

    Args:
        name: A config, see ``resolve``.
        plan: How; half of every group, on the smallest images, if None.

    Raises:
        InputError: There is no such config, or its network accepts no image.
    """
    plan, name = plan or Plan(), resolve(name)
    if not plan.with_peer:
        return check_network(build(name, plan.seed), name, plan)
    with PeerRun(name, plan.ratio, plan.seed, plan.size) as peer:
        result = check_network(build(name, plan.seed), name, plan)
        return replace(result, peer=peer.result())


def check_network(original: nn.Module, name: str, plan: Plan) -> ZooResult:
    """The same for a network in float64, which is in float32 afterwards.

    Args:
        original: The network, as ``build`` gives it.
        name: What its result is called; bars and laws are looked up by it.
        plan: How it is pruned.
    """
    started = time.perf_counter()
    batch = images(original, plan.size, seed=plan.seed)
    full_params = count_params(original)
    full_output, full_macs = counted_run(original, batch)

    double = measure(copy.deepcopy(original), batch, plan)
    pruner, channel_cfg = double.pruner, double.pruner.export_subnet()
    independent = run(zeroed(original, channel_cfg), batch)
    costs = {
        'full': (pruner.cost(pruner.full_subnet()), {'params': full_params, 'macs': full_macs}),
        'deployed': (
            pruner.cost(),
            {'params': count_params(double.deployed), 'macs': double.macs},
        ),
    }
    single = measure(in_type(original, torch.float32), batch.float(), plan)
    single_error = max(single.slice_error, single.mask_error)
    # On every road, training too, where float64 alone can tell: batch statistics magnify rounding.
    report = single.pruner.verify_subnet(subnet=single.pruner.current_subnet())
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
        single_error=single_error,
        signal=signal(double.output, full_output),
        scattered=scattered(pruner.current_subnet()),
        prepare_seconds=double.prepare_seconds,
        seconds=time.perf_counter() - started,
        choices_tipped=report.ok and single_error > SINGLE_BAR,
    )
    problems = problems_of(result, plan.ratio)
    for which, (said, counted) in costs.items():
        if said != counted:
            problems.append(f'cost() says {said}, the {which} network has {counted}')
    if not report.ok:
        problems.append(str(report))
    if single.pruner.export_subnet() != channel_cfg:
        problems.append('the float32 network has other groups, or kept other channels')
    return replace(result, problems=tuple(problems))


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
        is_choice = error == result.single_error and result.choices_tipped
        if not error <= bar and not (is_choice and result.model in CHOICES):
            problems.append(f'{what} is {error:.1e} off the deployed network, allowed {bar:.0e}')
    if not result.signal >= SIGNAL_BAR:
        problems.append(f'the output says too little to prove anything: {result.signal:.1e}')
    if result.scattered < SCATTERED_BAR:
        problems.append(f'only {result.scattered:.0%} of the groups keep other than their first')
    if result.model in ZOO and ratio <= 0.5 and result.kept > ZOO[result.model]:
        allowed = ZOO[result.model]
        problems.append(f'keeps {result.kept:.3f} of the parameters, allowed {allowed}')
    other = [f'{space_id} ({why})' for space_id, why in result.unexplained().items()]
    if result.model in ZOO and other:
        problems.append(f'pins what no law of the network says: {", ".join(other)}')
    return problems
