"""The network that a pruner has prepared becomes the small one, where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.deploy import ChannelCfg, deploy_in_place
from mmprune.deploy.carry_over import carry_average, carry_optimizer, check_average, check_states
from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.formats.cfg_codec import read_cfg, write_cfg
from mmprune.pruners.prepared import Prepared
from mmprune.wrappers import unwrap


class InPlace(Prepared):
    """Methods of a pruner for a training that goes on with the small network."""

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
        optimizers = list(optimizers)
        networks = [(average, unwrap(getattr(average, 'module', average))) for average in averages]
        alive = (
            supernet.alive
            if channel_cfg is None
            else read_cfg(supernet, as_channel_cfg(channel_cfg))
        )
        cfg = ChannelCfg(write_cfg(supernet, alive))
        for optimizer in optimizers:
            check_states(optimizer)
        for _, network in networks:
            check_average(network, supernet.model)
        replaced = deploy_in_place(supernet.model, cfg)
        for optimizer in optimizers:
            carry_optimizer(optimizer, replaced)
        for average, network in networks:
            carry_average(average, network, cfg)
        return supernet.model
