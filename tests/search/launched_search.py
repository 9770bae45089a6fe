"""What each of two launched processes does: it searches with the other one."""

import sys
from pathlib import Path

import torch

from mmprune.commands.search_subnet import search_subnet

torch.set_num_threads(1)
config, checkpoint, folder = map(Path, sys.argv[1:])
(result,) = search_subnet(config, checkpoint, folder, launcher='pytorch')
assert result.metric == result.again
