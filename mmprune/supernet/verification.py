"""Prove that a subnet gives the same numbers in the supernet, sliced and masked, and deployed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.deploy import VerifyReport, compare, deploy
from mmprune.deploy.channel_cfg import ChannelCfg
from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.supernet.supernet import Supernet


def verify(prepared: Supernet, alive: BoolArray, cfg: ChannelCfg) -> VerifyReport:
    """Compare the subnet whose labels are ``alive``; what was set is set again afterwards.

    It is compared on every road that can be walked. Where float32 shows a difference, the same
    is done in float64. What does not show there is rounding, see
    ``mmprune.execution.precision``; the report says so.

    Args:
        prepared: The supernet.
        alive: The labels that the subnet keeps.
        cfg: Its channel config.
    """
    before, mode = prepared.alive, prepared.execution.mode
    deployed = deploy(prepared.model, cfg)
    try:
        report = _worst(prepared, alive, deployed, cfg)
        if report.ok or not report.max_rel_err < float('inf') or not is_rounded(prepared.model):
            return report
        with in_float64(prepared.model, deployed):
            precise = _worst(prepared, alive, deployed, cfg, precise=True)
        return replace(precise, rounding=report.max_rel_err) if precise.ok else report
    finally:
        prepared.execution.mode = mode
        prepared.set_alive(before)


def _worst(
    prepared: Supernet,
    alive: BoolArray,
    deployed: nn.Module,
    cfg: ChannelCfg,
    precise: bool = False,
) -> VerifyReport:
    """The worst of the reports about the sliced and the masked supernet on all roads."""
    reports = []
    cut = partial(deploy, prepared.model, cfg)
    for way in ('slice', 'mask'):
        pending = [road.name for road in prepared.roads()]
        while pending:
            prepared.execution.mode = way
            prepared.set_alive(alive)
            road = next((road for road in prepared.roads() if road.name == pending[0]), None)
            if road is None:
                del pending[0]
                continue
            given = float64_input(road) if precise else road
            types = () if precise else prepared.graph.types
            found = compare(prepared.model, deployed, given, cut, types)
            if found.ok or not prepared.doubts(road):
                reports.append(found)
                del pending[0]
    worst = min(reports, key=lambda report: (report.ok, -report.max_rel_err))
    names = tuple(road.name for road in prepared.roads())
    return replace(worst, roads=names, not_walked=tuple(prepared.not_walked().items()))
