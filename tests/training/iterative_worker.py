"""One of the two processes of test_iterative_pruning_ddp.py: FOLDER."""

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
    cfg = tiny(
        pruner=dict(type='ImportancePruner', ratio=0.5, importance=dict(type='TaylorImportance'))
    )
    cfg.custom_hooks[0].collect = dict(num_batches=2, batch_size=16)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.custom_hooks[0].end = 1
    cfg.train_cfg.max_epochs = 2
    runner = train(cfg, folder, launcher='pytorch')
    assert isinstance(runner.model, MMDistributedDataParallel)
    held = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    live = list(runner.model.module.parameters())
    assert [id(p) for p in held] == [id(p) for p in live]
    torch.save(runner.model.module.state_dict(), folder / f'{runner.rank}.pth')


if __name__ == '__main__':
    main()
