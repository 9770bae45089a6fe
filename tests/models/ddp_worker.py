"""One of the processes of test_autoslim_ddp.py: RANK PORT FOLDER EXECUTION [CHANNEL_CFG ...]."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmcls.structures import ClsDataSample
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from mmprune.config import load_config
from mmprune.models.sandwich import shared_subnet
from mmprune.registry import MODEL_WRAPPERS, MODELS

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


def batch_of(rank: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rank)
    images = torch.randint(0, 256, (8, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (8,), generator=generator)
    samples = [ClsDataSample().set_gt_label(int(label)) for label in labels]
    return {'inputs': images, 'data_samples': samples}


def build(execution: str, channel_cfgs: list[str]) -> Any:
    cfg = load_config(CONFIG)
    cfg.model.pruner.execution = execution
    if channel_cfgs:
        cfg.model.update(retraining=True, channel_cfg=channel_cfgs)
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    return model.train()


def train(rank: int, port: int, folder: Path, execution: str, channel_cfgs: list[str]) -> None:
    """What each process does: one step with the wrapper, the same step without it, averaged."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    model, alone = (build(execution, channel_cfgs) for _ in range(2))
    wrapper_cfg = dict(type='mmprune.AutoSlimDDP', module=model, device_ids=[rank])
    wrapped = MODEL_WRAPPERS.build(wrapper_cfg)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)

    # The processes draw differently; the first one's subnets count.
    np.random.seed(rank)
    device = torch.device('cpu')
    subnets = [shared_subnet(model.pruner.sample_subnet(), device) for _ in range(4)]
    np.random.seed(rank)
    logs = wrapped.train_step(batch_of(rank), OptimWrapper(sgd))
    np.random.seed(rank)
    alone.train_step(batch_of(rank), OptimWrapper(torch.optim.SGD(alone.parameters(), lr=0.1)))

    averaged = {}
    for name, value in alone.named_parameters():
        averaged[name] = value.detach().clone()
        dist.all_reduce(averaged[name])
        averaged[name] /= 2
    result = {
        'weights': {name: value.detach() for name, value in model.named_parameters()},
        'averaged': averaged,
        'subnets': subnets,
        'logs': sorted(logs),
    }
    torch.save(result, folder / f'{rank}.pth')
    dist.destroy_process_group()


if __name__ == '__main__':
    train(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5:])
