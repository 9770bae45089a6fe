"""Prove that a subnet gives the same numbers in the supernet, sliced and masked, and deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.deploy import VerifyReport, compare, deploy
from mmprune.deploy.channel_cfg import ChannelCfg
from mmprune.deploy.verify import TOLERANCE, tolerance_in_float64
from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.supernet.supernet import Supernet


def verify(prepared: Supernet, alive: BoolArray, cfg: ChannelCfg) -> VerifyReport:
    """Compare the subnet whose labels are ``alive``; what was set is set again afterwards.

    It is compared on every road that can be walked. Where float32 shows a difference, the same
    is done in float64. What does not show there is rounding, see
    ``mmprune.execution.precision``; the report says so, and if the network cannot run in float64.

    Args:
        prepared: The supernet.
        alive: The labels that the subnet keeps.
        cfg: Its channel config.
    """
    before, mode = prepared.alive, prepared.execution.mode
    deployed = deploy(prepared.model, cfg)
    try:
        reports = _reports(prepared, alive, deployed, cfg)
        report = _worst(reports)
        wrong: dict[str, float] = {}
        for found in reports:
            if not found.ok:
                wrong[found.road] = max(found.max_rel_err, wrong.get(found.road, 0.0))
        if wrong and report.max_rel_err < float('inf') and is_rounded(prepared.model):
            with in_float64(prepared.model, deployed):
                precise = _worst(_reports(prepared, alive, deployed, cfg, only=wrong))
            if precise.ok:
                usual = TOLERANCE[torch.float64]
                allowed = usual if precise.max_rel_err <= usual else precise.tolerance
                report = replace(precise, tolerance=allowed, rounding=report.max_rel_err)
            elif not precise.max_rel_err < float('inf'):
                why = f'Float64 would tell rounding from a mistake, but: {precise.problem}'
                report = replace(report, problem=f'{report.problem} {why}')
        names = tuple(road.name for road in prepared.roads())
        return replace(report, roads=names, not_walked=tuple(prepared.not_walked().items()))
    finally:
        prepared.execution.mode = mode
        prepared.set_alive(before)


def _reports(
    prepared: Supernet,
    alive: BoolArray,
    deployed: nn.Module,
    cfg: ChannelCfg,
    only: Mapping[str, float] | None = None,
) -> list[VerifyReport]:
    """The reports about the sliced and the masked supernet on all roads, or ``only`` on these.

    These are walked in float64, in which the models are then; float32's errors on them are given.
    """
    reports = []
    cut = partial(deploy, prepared.model, cfg)
    for way in ('slice', 'mask'):
        pending = [road.name for road in prepared.roads() if only is None or road.name in only]
        while pending:
            prepared.execution.mode = way
            prepared.set_alive(alive)
            road = next((road for road in prepared.roads() if road.name == pending[0]), None)
            if road is None:
                del pending[0]
                continue
            given = road if only is None else float64_input(road)
            types = prepared.graph.types if only is None else ()
            tolerance = None if only is None else tolerance_in_float64(only[road.name])
            found = compare(prepared.model, deployed, given, cut, types, tolerance)
            if found.ok or only is not None or not prepared.doubts(road):
                reports.append(found)
                del pending[0]
    return reports


def _worst(reports: Iterable[VerifyReport]) -> VerifyReport:
    return min(reports, key=lambda report: (report.ok, -report.max_rel_err))
