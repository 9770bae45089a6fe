"""Hooks of mmengine's Runner."""

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmprune.registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows how far training is, as a bar on the standard error.

    For whoever looks at a terminal and has no use for a log; nothing is drawn
    where the standard error is not a terminal.

    Args:
        description: What stands in front of the bar.
    """

    priority = 'LOW'

    def __init__(self, description: str = 'training') -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn('loss {task.fields[loss]:.3f}'),
            console=console,
            disable=not (console.is_terminal and is_main_process()),
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self.task = self.progress.add_task(description, loss=0.0)

    def before_train(self, runner: Runner) -> None:
        """Show the bar."""
        self.progress.start()
        self.progress.update(self.task, total=runner.max_iters, completed=runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Move the bar by one iteration."""
        loss = float(torch.as_tensor((outputs or {}).get('loss', 0.0)).detach())
        self.progress.update(self.task, completed=runner.iter + 1, loss=loss)

    def after_train(self, runner: Runner) -> None:
        """Remove the bar."""
        self.progress.stop()
