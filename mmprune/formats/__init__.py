"""Files of pruned networks."""

from mmprune.formats.one_file import OneFile, read_one_file, write_one_file

__all__ = ['OneFile', 'read_one_file', 'write_one_file']
