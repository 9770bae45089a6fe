"""One of the two processes of test_distilled_ddp.py: FOLDER."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ddp_worker import batch_of
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from mmprune.config import load_config
from mmprune.registry import MODELS


def train(folder: Path) -> None:
    """One step with mmengine's wrapper, and the same step without it, averaged by hand."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    cfg = load_config(folder / 'config.py')
    init_default_scope('mmcls')
    torch.manual_seed(rank)  # the wrapper gives all the first one's weights
    model, alone = (MODELS.build(cfg.model) for _ in range(2))
    wrapped = MMDistributedDataParallel(model.train(), find_unused_parameters=False)
    alone.load_state_dict(model.state_dict())
    averaged = {}
    for net, trained in ((wrapped, model), (alone.train(), alone)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        logs = net.train_step(batch_of(rank), OptimWrapper(optimizer))
    for name, value in alone.named_parameters():
        averaged[name] = value.detach().clone()
        dist.all_reduce(averaged[name])
        averaged[name] /= 2
    result = {
        'weights': {name: value.detach() for name, value in model.named_parameters()},
        'averaged': averaged,
        'logs': sorted(logs),
        'teacher': dict(model.teaching.teacher(torch.device('cpu')).state_dict()),
        'names': [*wrapped.module.state_dict()],
    }
    torch.save(result, folder / f'{os.environ["RANK"]}.pth')
    dist.destroy_process_group()


if __name__ == '__main__':
    train(Path(sys.argv[1]))
