"""One of the two processes of test_iterative_pruning_ddp.py: FOLDER KIND."""

import sys
from pathlib import Path

import torch
from iterative_config import tiny
from mmengine.model import MMDistributedDataParallel

from mmprune.commands.run import train


def main() -> None:
    """Train across the deployment, and write down what this process has then."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    pruner = dict(type='ImportancePruner', budget=dict(macs=0.8))
    images = dict(num_batches=2, batch_size=16)
    if sys.argv[2] == 'images':
        cfg = tiny(pruner=dict(pruner, importance='Taylor'), collect=images, end=1)
    elif sys.argv[2] == 'listen':
        fisher = dict(pruner, importance='GroupFisher', score_per='macs')
        steps = dict(by_epoch=False, end=3, channels=8)
        cfg = tiny(pruner=fisher, listen=True, **steps)
    else:
        mixed = dict(pruner, importance='Fusion', scope='local')
        cfg = tiny(pruner=mixed, end=1)
        cfg.custom_hooks[0].type = 'mmprune.DCFF'
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.train_cfg.max_epochs = 2
    runner = train(cfg, folder, launcher='pytorch')
    assert isinstance(runner.model, MMDistributedDataParallel)
    held = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    live = list(runner.model.module.parameters())
    assert [id(p) for p in held] == [id(p) for p in live]
    torch.save(runner.model.module.state_dict(), folder / f'{runner.rank}.pth')


if __name__ == '__main__':
    main()
