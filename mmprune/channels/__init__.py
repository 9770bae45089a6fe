"""From a traced network to the channels that live or die together."""

from mmprune.channels.constraints import EqualBlocks
from mmprune.channels.groups import ChannelGroup, Member, build_groups
from mmprune.channels.propagate import Labelling, Wishes, propagate

__all__ = [
    'ChannelGroup',
    'EqualBlocks',
    'Labelling',
    'Member',
    'Wishes',
    'build_groups',
    'propagate',
]
