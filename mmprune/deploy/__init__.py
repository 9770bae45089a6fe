"""From a subnet to a plain, smaller network: channel configs, cutting, verification."""

from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.deploy.compose import compose
from mmprune.deploy.deployer import Replaced, cuts_of, deploy, deploy_in_place
from mmprune.deploy.entries import ChannelCfg, ChannelCfgError
from mmprune.deploy.parts import deploy_parts
from mmprune.deploy.verify import VerifyReport, compare

__all__ = [
    'ChannelCfg',
    'ChannelCfgError',
    'Replaced',
    'VerifyReport',
    'compare',
    'compose',
    'cuts_of',
    'deploy',
    'deploy_in_place',
    'deploy_parts',
    'load_channel_cfg',
    'save_channel_cfg',
]
