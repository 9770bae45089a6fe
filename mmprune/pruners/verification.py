"""Prove that a subnet gives the same numbers in the supernet, sliced and masked, and deployed."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.deploy import VerifyReport, compare, deploy
from mmprune.deploy.channel_cfg import ChannelCfg
from mmprune.execution.precision import float64_input, in_float64, is_rounded
from mmprune.pruners.cfg_codec import write_cfg
from mmprune.pruners.supernet import Supernet


def verify(prepared: Supernet, alive: BoolArray) -> VerifyReport:
    """Compare the subnet whose labels are ``alive``; what was set is set again afterwards.

    Where float32 shows a difference, the same is done in float64. What does not show there is
    rounding, see ``mmprune.execution.precision``; the report says so.
    """
    before, mode = prepared.alive, prepared.execution.mode
    deployed = deploy(prepared.model, ChannelCfg(write_cfg(prepared, alive)))
    try:
        report = _worst(prepared, alive, deployed)
        if report.ok or not report.max_rel_err < float('inf') or not is_rounded(prepared.model):
            return report
        with in_float64(prepared.model, deployed):
            precise = _worst(prepared, alive, deployed, precise=True)
        return replace(precise, rounding=report.max_rel_err) if precise.ok else report
    finally:
        prepared.execution.mode = mode
        prepared.set_alive(before)


def _worst(
    prepared: Supernet, alive: BoolArray, deployed: nn.Module, precise: bool = False
) -> VerifyReport:
    """The worse of the reports about the sliced and the masked supernet."""
    reports = []
    for way in ('slice', 'mask'):
        prepared.execution.mode = way
        prepared.set_alive(alive)
        demo = prepared.demo_input
        found = compare(prepared.model, deployed, float64_input(demo) if precise else demo)
        reports.append(found)
    return min(reports, key=lambda report: (report.ok, -report.max_rel_err))
