"""The methods of pruners that plan, list and restrict: each hands on to a module of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmprune.errors import check_choice
from mmprune.formats.cfg_codec import write_cfg
from mmprune.formats.mmrazor_files import mmrazor_content, save_mmrazor_file
from mmprune.plans.channel_list import RESIDUALS, sampled_cfg, union_counts, widths_of_list
from mmprune.plans.plan import Plan, make_plan
from mmprune.plans.plan_record import PlanRecord
from mmprune.plans.removals import Removal
from mmprune.pruners.prepared import Prepared
from mmprune.supernet.supernet import Subnet
from mmprune.supernet.topology import Topology, checked_options, topology_of


class Planning(Prepared):
    """What pruners do by names and lists of layers; see docs/plans.md, docs/topology.md."""

    _record: PlanRecord | None = None

    @property
    def plan_record(self) -> PlanRecord:
        """The plans that were carried out on the prepared network."""
        if self._record is None or self._record.supernet is not self.supernet:
            self._record = PlanRecord(self.supernet)
        return self._record

    def plan(
        self, layer: str, channels: Iterable[int], side: str = 'out', complete: bool = False
    ) -> Plan:
        """What removing channels of a layer would touch, and why; nothing is changed.

        Args:
            layer: Name of a layer.
            channels: Numbers of the channels in the full layer, from 0.
            side: ``'out'`` for its outputs, ``'in'`` for its inputs.
            complete: Add the fewest further channels that constraints ask for.

        Raises:
            PlanError: There is no such layer or channel, or it is pinned.
        """
        return make_plan(self.supernet, self.plan_record, layer, channels, side, complete)

    @property
    def executed_plans(self) -> tuple[Removal, ...]:
        """What plans have removed so far, in order."""
        return tuple(self.plan_record.removals)

    def save_plans(self, path: str | Path) -> None:
        """Write the plans that were carried out to a JSON file."""
        self.plan_record.save(path)

    def replay_plans(self, path: str | Path) -> Subnet:
        """Carry out the plans of a file on the full network, and set the subnet.

        Raises:
            PlanError: The file is broken or does not fit; nothing is changed.
        """
        return self.plan_record.replay(path)

    def topology(self, leave_out: Sequence[str] = ()) -> Topology:
        """Which layers share channels: norms, the layers before them, the layers after them.

        Args:
            leave_out: Groups that are not wanted: ``'strided'`` (a convolution with a stride
                makes the channels), ``'grouped'`` (a convolution with groups, other than a
                depthwise one, makes or reads them). ``Topology.left_out`` says which they were.
        """
        return topology_of(self.channel_groups, self.supernet.model, checked_options(leave_out))

    def channel_list_cfg(
        self, channels: Sequence[int], residual: str = 'union', seed: int = 0, **options: Any
    ) -> dict[str, Any]:
        """The channel config of a flat list of widths, in the order in which the layers run.

        Args:
            channels: Widths of the convolutions; depthwise ones are left out.
            residual: Where layers that are added have different widths, ``'union'`` evens them to
                the largest, which is a subnet; ``'sample'`` has the shortcuts sampled to fit by a
                fixed index, which is a network of its own.
            seed: What the index is drawn with.
            options: ``skip``, ``has_input`` and ``unused`` of ``widths_of_list``.

        Raises:
            InputError: The list does not fit the network.
        """
        check_choice('residual', residual, RESIDUALS)
        supernet = self.supernet
        widths = widths_of_list(supernet, channels, **options)
        if residual == 'sample':
            return sampled_cfg(supernet, widths, seed)
        subnet = self.subnet_of_counts(union_counts(supernet, widths))
        return write_cfg(supernet, supernet.alive_of(subnet))

    def export_mmrazor(self, version: str = '0.x') -> dict[str, Any]:
        """The subnet that is set, as a channel config of MMRazor 0.x or a unit file of 1.x.

        Raises:
            ChannelCfgError: Their format cannot say it.
        """
        return mmrazor_content(self.supernet, self.supernet.alive, version)

    def save_mmrazor(self, path: str | Path, version: str = '0.x') -> None:
        """Write ``export_mmrazor`` to a file, as JSON if its name ends so, else as YAML."""
        save_mmrazor_file(self.export_mmrazor(version), path)
