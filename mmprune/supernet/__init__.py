"""The prepared network: its groups, its switch, its trial, and the proof that subnets are right."""

from mmprune.supernet.supernet import Subnet, SubnetError, Supernet

__all__ = ['Subnet', 'SubnetError', 'Supernet']
