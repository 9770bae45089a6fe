"""The running statistics of batch norms: set aside, put back, and computed anew.

A supernet has one set of running statistics and many widths, and a width's
activations are distributed in its own way, so a subnet is evaluated with
statistics of its own: reset, and averaged over some training batches (Yu and
Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019,
section 3.3). Nothing in this module changes a weight.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmprune.compensation import run_inputs
from mmprune.trace.model_state import modes_kept


def norms_with_statistics(model: nn.Module) -> list[_NormBase]:
    """Return the norm layers of ``model`` that hold running statistics, in order."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    ]


@contextmanager
def kept_norm_statistics(model: nn.Module) -> Iterator[None]:
    """Put the running statistics back at the end, whatever happened to them inside.

    Args:
        model: Its norm layers' running means, variances and batch counts are kept.
    """
    buffers = [
        buffer
        for norm in norms_with_statistics(model)
        for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        if buffer is not None
    ]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


@torch.no_grad()
def recalibrate_norm_statistics(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replace the running statistics by those of ``batches``, exactly.

    The new mean and variance are the averages of the batches' means and
    variances, weighted by the number of samples in each, so that a short last
    batch counts for what it is. Everything but the norms is in eval mode
    meanwhile: the statistics are those which the network meets in use.

    Args:
        model: The network, with the subnet set that is to be calibrated.
        batches: Inputs of ``model``, each of shape (N, ...), keywords whose ``inputs`` (or first
            ones) are that, or (inputs, labels); consumed once.

    Returns:
        How many samples the statistics were taken over.

    Raises:
        ValueError: If there are norms with statistics and no batches; the
            statistics are as they were then.
    """
    norms = norms_with_statistics(model)
    if not norms:
        return 0
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError('Recalibrating batch norms needs at least one batch, got none.')

    momenta = [norm.momentum for norm in norms]
    seen = 0
    with modes_kept(model):
        try:
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
            for batch in chain([first], iterator):
                count = _samples_in(batch)
                seen += count
                for norm in norms:
                    norm.momentum = count / seen
                run_inputs(model, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return seen


def _samples_in(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return len(batch.get('inputs', next(iter(batch.values()))))
    return len(batch) if isinstance(batch, Tensor) else _samples_in(batch[0])
