"""The wrapper that trains AutoSlim in several processes."""

from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmprune.models.sandwich import slimmable_step
from mmprune.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class AutoSlimDDP(MMDistributedDataParallel):
    """Data-parallel training of AutoSlim: the gradients of all widths are exchanged once a step.

    mmengine's own wrapper runs one forward pass per step and never asks the
    model for its ``train_step``. In a config:
    ``model_wrapper_cfg=dict(type='mmprune.AutoSlimDDP')``; it has no effect
    where training is not distributed.

    Args:
        module: The AutoSlim model.
        device_ids: As in torch; set aside for a model on the CPU, which takes none.
        broadcast_buffers: Off by default, as mmengine has it: buffers hold masks
            and running statistics, which must not change between the passes of a step.
        kwargs: Further arguments of torch's ``DistributedDataParallel``. With subnets that are
            retrained jointly ``find_unused_parameters`` is True: the last one of a step does not
            use the norms of the others.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = False,
        **kwargs: Any,
    ) -> None:
        if next(module.parameters()).device.type == 'cpu':
            device_ids = None
        if getattr(module, 'subnets', None):
            kwargs['find_unused_parameters'] = True
        super().__init__(
            module, device_ids=device_ids, broadcast_buffers=broadcast_buffers, **kwargs
        )

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Train on one batch; see :func:`mmprune.models.sandwich.slimmable_step`."""
        if self.module.is_slimmable:
            return slimmable_step(self.module, self, data, optim_wrapper)
        return super().train_step(data, optim_wrapper)
