"""The base of all pruners: a supernet, its subnets, and the way to plain networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import Wishes
from mmprune.channels.constraints import round_half_up
from mmprune.compensation import Compensation, CompensationReport, compensate
from mmprune.compensation.compensate import Forward
from mmprune.deploy import ChannelCfgError, VerifyReport, deploy, deploy_parts
from mmprune.deploy.carry_over import deploy_with_training
from mmprune.deploy.channel_cfg import ChannelCfg, as_channel_cfg
from mmprune.errors import InputError, check_choice
from mmprune.formats.cfg_codec import read_cfg, write_cfg
from mmprune.pruners.arguments import built_importance, default_input, refuse_subnet
from mmprune.pruners.mmrazor_names import MMRazorNames
from mmprune.pruners.planning import Planning
from mmprune.pruners.prepared import alone
from mmprune.pruners.searching import Searching
from mmprune.pruners.switching import ChannelCfgLike, Switching
from mmprune.registry import PRUNERS
from mmprune.report.picture import draw_groups
from mmprune.report.report import report
from mmprune.schema import Count, checked
from mmprune.supernet.supernet import Subnet, Supernet
from mmprune.supernet.topology import Restriction, Topology
from mmprune.supernet.trial import random_alive
from mmprune.supernet.verification import verify
from mmprune.trace.demo_images import check_demo_input
from mmprune.trace.tracer import DemoInput
from mmprune.weights import check_weights
from mmprune.wrappers import unwrap


@PRUNERS.register_module()
class StructurePruner(MMRazorNames, Planning, Searching, Switching):
    """Turns a network into a supernet of subnets with fewer channels.

    Subclasses say how many channels a subnet keeps (``sample_subnet``,
    ``set_min_channel``); ``importance`` says which.

    Args:
        except_start_keys: Layers whose output channels all stay: names of layers, or of modules
            that hold layers. ``'stage1'`` stands for all in ``stage1``, not for ``stage10``.
        importance: Config, name (``'L1'``, ``'L1Importance'``) or instance of a channel
            importance; None keeps the first channels of each group, as in slimmable networks.
        execution: ``'slice'`` computes only what the subnet has; ``'mask'`` keeps all
            shapes and multiplies weights by 0/1 masks.
        ties: Pairs of layer names whose output channels are to be pruned together.
        attention: What attention loses: ``'heads'``, where they can be removed, or
            ``'dims'``, equally many channels of every head.
        round_to: Every layer keeps a multiple of this many channels of a group, or all of them.
        group_norm: What a GroupNorm loses: ``'channels'``, equally many of every group, or
            whole ``'groups'``.
        topology: The only groups to prune, as ``pruner.topology()`` lists them: a dict or file.
        leave_out: Groups not to prune: ``'strided'``, ``'grouped'``, see ``Restriction``.
    """

    def __init__(
        self,
        except_start_keys: Sequence[str] = (),
        importance: Any = None,
        execution: str = 'slice',
        ties: Iterable[tuple[str, str]] = (),
        attention: str = 'heads',
        round_to: int = 1,
        group_norm: str = 'channels',
        topology: Topology | Mapping[str, Any] | str | Path | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        check_choice('execution', execution, ('slice', 'mask'))
        check_choice('attention', attention, ('heads', 'dims'))
        check_choice('group_norm', group_norm, ('channels', 'groups'))
        self.attention, self.group_norm = attention, group_norm
        if isinstance(except_start_keys, str):
            raise InputError(
                f'except_start_keys must be a list of names: [{except_start_keys!r}], not '
                f'{except_start_keys!r}'
            )
        self.except_start_keys = tuple(except_start_keys)
        for key in self.except_start_keys:
            checked(str, key, 'except_start_keys, names of layers')
        self.importance = built_importance(importance)
        self.execution = execution
        self.round_to = checked(Count, round_to, 'round_to')
        self.restriction = Restriction(topology, leave_out)
        self.ties = [(first, second) for first, second in ties]
        self._draws = 0

    # -- preparing ---------------------------------------------------------------------

    @alone
    def prepare_from_supernet(
        self, supernet: nn.Module, demo_input: DemoInput | None = None
    ) -> None:
        """Trace a network and patch its modules, so that its width can be switched.

        Args:
            supernet: Any module, or an algorithm that holds one as ``.architecture``.
            demo_input: A tensor, a tuple of arguments, a dict of keywords, a
                ``callable(model) -> outputs``, or a list of roads, see
                ``mmprune.trace.roads.roads_of``; a 1x3x224x224 image if not given, which is
                said.

        Raises:
            TraceError: The model cannot be run on the demo input, or the first road.
            InputError: The demo input is a shape, or a name or option fits no layer.
        """
        if not isinstance(supernet, nn.Module):
            raise InputError(f'a network is a torch.nn.Module, found {type(supernet).__name__}')
        check_demo_input(demo_input)
        model = unwrap(supernet)
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) and module.state_dict():
                raise InputError(
                    f'{name or type(model).__name__}: a program of torch.jit, whose layers cannot '
                    'be cut: give the module that it was made from, and script what comes back'
                )
        check_weights(model, type(model).__name__)
        if demo_input is None:
            demo_input = default_input(model)
        self._supernet = Supernet(
            model,
            demo_input,
            Wishes(self.except_start_keys, tuple(self.ties), self.attention, self.group_norm),
            self.execution,
            self.restriction,
        )
        self._norms = None

    @property
    def channel_spaces(self) -> Subnet:
        """``space_id`` -> the group's mask in the subnet that is set, of the prunable groups."""
        return self.supernet.subnet_of(self.supernet.alive)

    # -- subnets -----------------------------------------------------------------------

    def set_max_channel(self) -> None:
        """Set the full width."""
        self.supernet.set_alive(np.ones(self.supernet.size, bool))

    def current_subnet(self) -> Subnet:
        """The subnet that is set."""
        return self.supernet.subnet_of(self.supernet.alive)

    # -- bins --------------------------------------------------------------------------

    def get_max_channel_bins(self, max_channel_bins: int) -> dict[str, torch.Tensor]:
        """All bins of every group: ``{space_id: ones(n)}``."""
        checked(Count, max_channel_bins, 'max_channel_bins')
        return {space_id: torch.ones(max_channel_bins) for space_id in self.channel_spaces}

    def bins_to_subnet(self, bins: Mapping[str, torch.Tensor], max_channel_bins: int) -> Subnet:
        """The subnet of a share of bins: n of N bins keep n/N of a group's channels.

        All bins keep all channels, whether or not N divides their number or exceeds it;
        at least one channel stays.
        """
        counts = {}
        checked(dict[str, torch.Tensor], bins, 'bins')
        for space_id, group in self.supernet.prunable_groups.items():
            if space_id not in bins or bins[space_id].numel() != max_channel_bins:
                found = bins[space_id].numel() if space_id in bins else 'none'
                raise InputError(f"'{space_id}': expected {max_channel_bins} bins, found {found}")
            share = float((bins[space_id] != 0).sum()) / max_channel_bins
            counts[space_id] = max(1, round_half_up(share * group.num_channels))
        return self.subnet_of_counts(counts)

    def set_channel_bins(
        self, channel_bins_dict: Mapping[str, torch.Tensor], max_channel_bins: int
    ) -> None:
        """Set the subnet of ``bins_to_subnet``."""
        self.set_subnet(self.bins_to_subnet(channel_bins_dict, max_channel_bins))

    # -- channel configs ---------------------------------------------------------------

    @alone
    def deploy_subnet(
        self, supernet: nn.Module, channel_cfg: ChannelCfgLike | None = None
    ) -> nn.Module:
        """A new plain network with the channels that a channel config keeps.

        Args:
            supernet: The network that the config was made for, prepared or plain; it is
                left as it was. An algorithm is looked through for its ``.architecture``.
            channel_cfg: A channel config or a file of one; None takes the subnet that is set.
                No trace is needed, except for None and for MMRazor 1.x unit files, which want
                a prepared pruner.

        Raises:
            ChannelCfgError: The config does not fit the model; nothing is changed.
            InputError: A subnet is given in the place of a channel config, or none is set.
        """
        if not isinstance(supernet, nn.Module):
            raise InputError(f'deploy_subnet takes a network, not a {type(supernet).__name__}')
        model = unwrap(supernet)
        prepared = self._supernet
        is_prepared = prepared is not None and prepared.model is model
        if prepared is not None and is_prepared:
            prepared.follow_replaced()
        if channel_cfg is None:
            if not is_prepared:
                raise InputError(
                    'deploy_subnet(network) deploys the subnet that is set, but this pruner has '
                    f'not prepared the {type(model).__name__}: give a channel config as well'
                )
            channel_cfg = self.export_subnet()
        if prepared is not None and is_prepared and prepared.is_current and self._exported:
            exported = self._exported.alive_of(prepared, channel_cfg)
            if exported is not None:
                return deploy_parts(model, *prepared.execution.parts(exported))
        refuse_subnet(channel_cfg)
        cfg = as_channel_cfg(channel_cfg)
        if prepared is not None and is_prepared and not cfg.sampled:
            alive = read_cfg(prepared, cfg)
            if prepared.is_current:
                return deploy_parts(model, *prepared.execution.parts(alive))
            cfg = ChannelCfg(write_cfg(prepared, alive), cfg.source)
        elif cfg.is_unit_file:
            raise ChannelCfgError(
                f'{cfg.source}: is a unit file of MMRazor 1.x, which names only one layer per '
                'group: call prepare_from_supernet(model) first'
            )
        return deploy(model, cfg)

    @alone
    def deploy_in_place(
        self,
        channel_cfg: Mapping[str, Any] | str | Path | None = None,
        optimizers: Iterable[torch.optim.Optimizer] = (),
        averages: Iterable[nn.Module] = (),
    ) -> nn.Module:
        """Make the prepared network itself the plain network of a subnet, in a running training.

        Modules stay the objects that they are, with their hooks. Parameters that lose something
        are replaced by new ones, which the optimizers hold from then on, with their states and
        gradients cut alike. The network is a supernet no longer: prepare it again to prune on.

        Args:
            channel_cfg: A channel config or a file of one; the subnet that is set if None.
            optimizers: All that hold parameters of the network.
            averages: Copies of the network that average its weights, plain modules or wrappers
                with the copy as ``.module`` (of torch or mmengine).

        Returns:
            The network.

        Raises:
            ChannelCfgError: The config does not fit. Nothing is changed then.
            InputError: The state of an optimizer cannot be cut, or an average is no copy of the
                network. Nothing is changed then.
        """
        supernet = self.supernet
        alive = (
            supernet.alive
            if channel_cfg is None
            else read_cfg(supernet, as_channel_cfg(channel_cfg))
        )
        cfg = ChannelCfg(write_cfg(supernet, alive))
        deploy_with_training(supernet.model, cfg, optimizers, averages)
        return supernet.model

    def compensate(
        self,
        deployed: nn.Module,
        data: Any,
        method: str | Mapping[str, Any] | Compensation = 'LeastSquares',
        channel_cfg: Mapping[str, Any] | str | Path | None = None,
        forward: Forward | None = None,
    ) -> CompensationReport:
        """Give a deployed network weights that make up for what was removed.

        Args:
            deployed: The plain network of a subnet; its weights are changed in place.
            data: Images without labels: a batch, or an iterable of batches.
            method: Name or config in ``COMPENSATIONS``, or an instance.
            channel_cfg: The subnet; the one that is set if None.
            forward: ``forward(model, batch)``, where a batch is more than a model's inputs.

        Raises:
            InputError: The network is not the subnet's, or there are no images.
        """
        cfg = self.export_subnet() if channel_cfg is None else channel_cfg
        return compensate(self.supernet.model, deployed, cfg, data, method, forward)

    # -- checking ----------------------------------------------------------------------

    @alone
    def verify_subnet(
        self, supernet: nn.Module | None = None, subnet: Mapping[str, torch.Tensor] | None = None
    ) -> VerifyReport:
        """Prove on the demo input that a subnet gives the same numbers deployed, on every road.

        The subnet is run sliced and masked (two computations that share little) and
        compared with the deployed network. The subnet that was set is set again afterwards.

        Args:
            supernet: The prepared network; may be left out.
            subnet: The subnet to verify; if None a random one, another at each call, the same
                ones after ``torch.manual_seed``. No random state is moved on.
        """
        prepared = self.supernet
        if supernet is not None and unwrap(supernet) is not prepared.model:
            raise InputError('verify_subnet: the model is not the one that was prepared')
        prepared.follow_replaced()
        if subnet is None:
            self._draws += 1
            seed = (torch.initial_seed() % 2**63, self._draws)
            alive = random_alive(prepared.groups, prepared.size, seed)
        else:
            alive = prepared.alive_of(subnet)
        return verify(prepared, alive, ChannelCfg(write_cfg(prepared, alive)))

    def report(self, members: bool = True) -> str:
        """What was traced, all groups (with their members), and costs, for a person."""
        return report(self.supernet, members)

    def draw(self, path: str | Path, title: str | None = None) -> None:
        """Write a picture of all groups, an SVG file for a browser."""
        draw_groups(self.supernet, path, title)

    def get_space_id(self, module_name: str) -> str | dict[str, list[str]] | None:
        """The group of a layer's channels.

        Returns:
            The ``space_id``; ``{'concat': [...]}`` where the channels come from several
            groups (a norm after a concatenation); None where they are pinned.

        Raises:
            KeyError: No traced layer has this name.
        """
        layer = self.supernet.layers.get(module_name)
        if layer is None or layer.outputs is None:
            raise KeyError(f"no traced layer '{module_name}' with output channels")
        groups = [
            space_id
            for space_id, group in self.supernet.prunable_groups.items()
            if np.isin(group.labels, layer.outputs).any()
        ]
        if len(groups) > 1:
            return {'concat': groups}
        return groups[0] if groups else None
