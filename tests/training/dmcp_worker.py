"""One of the two processes of test_dmcp.py: FOLDER."""

import sys
from pathlib import Path

import torch
from mmengine.model import is_model_wrapper
from test_dmcp import tiny

from mmprune.commands.run import train


def main() -> None:
    """Train weights and chains, and write down what this process has then."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    cfg = tiny()
    cfg.train_cfg.max_epochs = 1
    runner = train(cfg, folder, launcher='pytorch')
    assert is_model_wrapper(runner.model)
    algorithm = runner.model.module
    weights = {name: tensor.detach() for name, tensor in algorithm.named_parameters()}
    torch.save(
        {'logits': algorithm.pruner.logits.detach(), **weights}, folder / f'{runner.rank}.pth'
    )


if __name__ == '__main__':
    main()
