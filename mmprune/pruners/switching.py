"""The methods of pruners that switch between several given subnets of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.errors import InputError
from mmprune.execution import SwitchableNorms
from mmprune.formats.cfg_codec import read_cfg
from mmprune.pruners.prepared import Prepared
from mmprune.supernet.supernet import Subnet

ChannelCfgLike = Mapping[str, Any] | str | Path


class Switching(Prepared):
    """Several subnets by their channel configs, and by norms of their own."""

    _norms: SwitchableNorms | None = None

    def switchable_norms(self, number: int) -> SwitchableNorms:
        """Give each of several subnets its own norms; ``switch_subnet`` selects them from then on.

        Args:
            number: How many subnets there are.

        Returns:
            A module with the norms of all but the first. Its parameters belong into the optimizer
            beside the network's, and its state dict into the checkpoint.
        """
        if number < 1:
            raise InputError(f'norms are wanted for 1 subnet or more, not {number}')
        self._norms = SwitchableNorms(self.supernet.model, number)
        return self._norms

    def switch_subnet(
        self,
        channel_cfg: ChannelCfgLike | Sequence[ChannelCfgLike],
        subnet_ind: int | None = None,
    ) -> None:
        """Set the subnet of a channel config, or of one of several, with its norms.

        Args:
            channel_cfg: One channel config, or a list of them.
            subnet_ind: Which of the list; the first if None.

        Raises:
            InputError: The list has no such subnet, or another length than there are
                ``switchable_norms``. Nothing is changed then.
        """
        if not isinstance(channel_cfg, list | tuple):
            self.set_subnet(self.load_channel_cfg(cast(ChannelCfgLike, channel_cfg)))
            return
        index, number = subnet_ind or 0, len(channel_cfg)
        if not 0 <= index < number:
            raise InputError(f'no subnet {index}: there are {number} channel configs')
        if self._norms is not None and self._norms.number != number:
            raise InputError(
                f'there are {number} channel configs, but switchable norms for '
                f'{self._norms.number} subnets'
            )
        subnet = self.load_channel_cfg(channel_cfg[index])
        if self._norms is not None:
            self._norms.switch(index)
        self.set_subnet(subnet)

    def load_channel_cfg(self, channel_cfg: ChannelCfgLike) -> Subnet:
        """The subnet that a channel config (dict or file) stands for, checked against the model.

        Reads mmprune's format, MMRazor 0.x channel configs and MMRazor 1.x unit files.

        Raises:
            ChannelCfgError: It is broken, or does not fit the model.
        """
        alive = read_cfg(self.supernet, as_channel_cfg(channel_cfg))
        return self.supernet.subnet_of(alive)
