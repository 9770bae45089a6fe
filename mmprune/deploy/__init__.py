"""From a subnet to a plain, smaller network: channel configs, cutting, verification."""

from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.deploy.deployer import Replaced, cuts_of, deploy, deploy_in_place
from mmprune.deploy.entries import ChannelCfg, ChannelCfgError
from mmprune.deploy.verify import VerifyReport, compare

__all__ = [
    'ChannelCfg',
    'ChannelCfgError',
    'Replaced',
    'VerifyReport',
    'compare',
    'cuts_of',
    'deploy',
    'deploy_in_place',
    'load_channel_cfg',
    'save_channel_cfg',
]
