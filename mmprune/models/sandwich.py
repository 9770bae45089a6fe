"""One training step of a slimmable network: several widths, one optimizer step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from mmengine.dist import broadcast, is_distributed
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmprune.models.distillers import SelfDistiller
from mmprune.models.kept_channels import kept_channels
from mmprune.models.norm_statistics import kept_norm_statistics

# The mode in which AutoSlim.forward computes the losses of labelled data inside a step.
LABELLED = 'labelled'


class Slimmable(Protocol):
    """What a step needs of an algorithm: a model of mmengine's with these (AutoSlim)."""

    architecture: nn.Module
    pruner: Any
    distiller: SelfDistiller | None
    num_sample_training: int
    subnets: list[Any]
    switch_subnet: Callable[[int], None]
    data_preprocessor: nn.Module
    parameters: Callable[[], Iterator[nn.Parameter]]
    parse_losses: Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


def slimmable_step(
    algorithm: Slimmable, model: nn.Module, data: Any, optim_wrapper: OptimWrapper
) -> dict[str, Tensor]:
    """Train several widths on one batch: the given subnets, if there are any, or by the sandwich.

    Each width's backward pass follows its forward pass, so that one graph is held in memory at a
    time; the gradients add up and the optimizer steps once.

    Args:
        algorithm: The model with pruner, distiller and network.
        model: What the forward passes go through: ``algorithm`` itself or its
            wrapper for training on several devices.
        data: A batch as the dataloader gives it.
        optim_wrapper: Does the backward passes, so that mixed precision,
            gradient accumulation and clipping work as configured.

    Returns:
        The losses to log, by ``<width>.<name>``, and their sum as ``loss``.
    """
    step = _joint_step if algorithm.subnets else _sandwich_step
    return step(algorithm, model, data, optim_wrapper)


def _joint_step(
    algorithm: Slimmable, model: nn.Module, data: Any, optim_wrapper: OptimWrapper
) -> dict[str, Tensor]:
    """Train the given subnets, each with norms of its own; all learn from labels.

    Yu et al., "Slimmable Neural Networks", 2019, algorithm 1. Afterwards the first one is set.
    """
    numbers = range(len(algorithm.subnets))
    widths = {f'subnet{number}': partial(algorithm.switch_subnet, number) for number in numbers}

    def losses(index: int, batch: dict[str, Any]) -> dict[str, Tensor]:
        return model(**batch, mode=LABELLED)

    try:
        return _train_widths(algorithm, model, data, optim_wrapper, widths, losses)
    finally:
        algorithm.switch_subnet(0)


def _sandwich_step(
    algorithm: Slimmable, model: nn.Module, data: Any, optim_wrapper: OptimWrapper
) -> dict[str, Tensor]:
    """Train the widest, the narrowest and some random widths on one batch.

    The sandwich rule with in-place distillation (Yu and Huang, "Universally
    Slimmable Networks and Improved Training Techniques", 2019, sections 3.1
    and 3.2): the widest learns from the labels, and teaches the others by its
    detached outputs. Without a distiller every width learns from labels.

    Only the widest leaves a trace in the norms' running statistics: a mixture
    over widths would fit none of them. Afterwards the widest is set.
    """
    num_random = algorithm.num_sample_training - 2
    names = ['max_subnet', 'min_subnet', *(f'random_subnet{i + 1}' for i in range(num_random))]
    device = next(algorithm.parameters()).device
    widths = {name: partial(_set_width, algorithm, name, device) for name in names}
    with ExitStack() as statistics:

        def losses(index: int, batch: dict[str, Any]) -> dict[str, Tensor]:
            if index == 1:
                statistics.enter_context(kept_norm_statistics(algorithm.architecture))
            return _losses(algorithm, model, batch, is_widest=index == 0)

        try:
            return _train_widths(algorithm, model, data, optim_wrapper, widths, losses)
        finally:
            if algorithm.distiller is not None:
                algorithm.distiller.clear()
            algorithm.pruner.set_max_channel()


def _train_widths(
    algorithm: Slimmable,
    model: nn.Module,
    data: Any,
    optim_wrapper: OptimWrapper,
    widths: Mapping[str, Callable[[], None]],
    losses: Callable[[int, dict[str, Any]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Set each of the widths and train it, by the losses of its number and of the batch."""
    batch = algorithm.data_preprocessor(data, True)
    logs: dict[str, Tensor] = {}
    total = torch.zeros((), device=next(algorithm.parameters()).device)
    for index, (width, set_width) in enumerate(widths.items()):
        set_width()
        is_last = index == len(widths) - 1
        with optim_wrapper.optim_context(model), _synchronised(model, is_last):
            found = losses(index, batch)
        loss, log = algorithm.parse_losses(found)
        logs.update({f'{width}.{name}': value.detach() for name, value in log.items()})
        total = total + loss.detach()
        if is_last:
            optim_wrapper.update_params(loss)
        else:
            _accumulate(optim_wrapper, loss)
    return {'loss': total, **logs}


def _set_width(algorithm: Slimmable, width: str, device: torch.device) -> None:
    if width == 'max_subnet':
        algorithm.pruner.set_max_channel()
    elif width == 'min_subnet':
        algorithm.pruner.set_min_channel()
    else:
        algorithm.pruner.set_subnet(shared_subnet(algorithm.pruner.sample_subnet(), device))


def _losses(
    algorithm: Slimmable, model: nn.Module, batch: dict[str, Any], is_widest: bool
) -> dict[str, Tensor]:
    """Run the width that is set; return its losses, and record the teacher if it is one."""
    distiller = algorithm.distiller
    if distiller is None:
        return model(**batch, mode=LABELLED)
    if is_widest:
        with distiller.teacher(algorithm.architecture):
            return model(**batch, mode=LABELLED)
    with distiller.student(algorithm.architecture):
        model(**batch, mode='tensor')
    supernet = algorithm.pruner.supernet
    return distiller.loss(
        kept_channels(supernet.labelling, supernet.alive, distiller.teacher_modules)
    )


def _synchronised(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Hold gradients back from the other processes until the last width of the step."""
    no_sync = getattr(model, 'no_sync', None)
    return nullcontext() if is_last or no_sync is None else no_sync()


def _accumulate(optim_wrapper: OptimWrapper, loss: Tensor) -> None:
    """Add the gradients of ``loss`` without counting a step of gradient accumulation.

    The count is what the wrapper's loss scale and its next optimizer step go
    by, and it counts batches; here several backward passes belong to one.
    """
    count = optim_wrapper._inner_count
    optim_wrapper.backward(optim_wrapper.scale_loss(loss))
    optim_wrapper._inner_count = count


def shared_subnet(subnet: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the first process's subnet, in every process.

    Args:
        subnet: The process's own.
        device: Where the processes exchange tensors.
    """
    if not is_distributed():
        return subnet
    flat = torch.cat([mask.flatten() for mask in subnet.values()]).to(device)
    broadcast(flat)
    parts = flat.split([mask.numel() for mask in subnet.values()])
    return {
        space_id: part.view_as(mask).to(mask.device)
        for (space_id, mask), part in zip(subnet.items(), parts, strict=True)
    }
