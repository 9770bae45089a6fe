"""Validating and testing each of the subnets that are retrained jointly."""

from __future__ import annotations

from typing import Any

from mmengine.runner import TestLoop, ValLoop

from mmprune.registry import LOOPS
from mmprune.wrappers import without_wrapper


class _EachSubnet:
    """Measures the subnets one after the other; metrics are named ``subnet0/accuracy/top1``."""

    stage: str
    runner: Any
    dataloader: Any
    evaluator: Any
    run_iter: Any

    def run(self) -> dict[str, float]:
        """Return what the evaluator says of each subnet; the first one is set afterwards.

        Any other model, such as one of the subnets when it is deployed, is measured as it is.
        """
        model: Any = without_wrapper(self.runner.model)
        if not getattr(model, 'subnets', None):
            plain: Any = super()
            return plain.run()
        self.runner.call_hook(f'before_{self.stage}')
        self.runner.call_hook(f'before_{self.stage}_epoch')
        self.runner.model.eval()
        metrics = {}
        try:
            for number in range(len(model.subnets)):
                model.switch_subnet(number)
                for index, batch in enumerate(self.dataloader):
                    self.run_iter(index, batch)
                found = self.evaluator.evaluate(len(self.dataloader.dataset))
                metrics.update({f'subnet{number}/{name}': found[name] for name in found})
        finally:
            model.switch_subnet(0)
        self.runner.call_hook(f'after_{self.stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.stage}')
        return metrics


@LOOPS.register_module()
class SubnetsValLoop(_EachSubnet, ValLoop):
    """Validates each of the subnets that are retrained jointly; for ``val_cfg``."""

    stage = 'val'


@LOOPS.register_module()
class SubnetsTestLoop(_EachSubnet, TestLoop):
    """Tests each of the subnets that are retrained jointly; for ``test_cfg``."""

    stage = 'test'
