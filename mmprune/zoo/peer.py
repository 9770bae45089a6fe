"""Torch-Pruning on the networks of the zoo, in a process of its own.

Only a comparison: mmprune does not need it. It runs apart, under a time limit, since pruning some
of the networks does not end.
"""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import TimeoutError, get_context

import torch
from mmengine.logging import MMLogger
from torch import nn

from mmprune.zoo.independent import zeroed_like
from mmprune.zoo.models import build, images
from mmprune.zoo.running import count_params, difference, run

SECONDS = 60
"""How long it may take on one network."""
EXACT_BAR = 1e-10
"""Largest relative error of a right result, in float64."""


@dataclass(frozen=True)
class PeerResult:
    """What Torch-Pruning made of one network.

    Attributes:
        outcome: ``'exact'``, ``'wrong'`` (it runs, and computes something else), ``'unproven'``
            (it runs, and its numbers could not be found in the full network), ``'fails'``
            (it cannot be pruned, or cannot be run afterwards), ``'no end'``.
        detail: The error, if there is one.
        kept: Share of the parameters that are left; None if nothing came out.
        error: Relative difference to the full network with zeros for what was removed.
        seconds: What building the dependency graph and pruning took.
    """

    outcome: str
    detail: str = ''
    kept: float | None = None
    error: float | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        words = [self.outcome]
        if self.kept is not None:
            words.append(f'{self.kept:.3f}')
        if self.outcome == 'wrong' and self.error is not None:
            words.append(f'off by {self.error:.0e}')
        return ' '.join(words)


def version() -> str | None:
    """The version of Torch-Pruning that is installed, None if none is."""
    return metadata.version('torch-pruning') if find_spec('torch_pruning') else None


def prune(name: str, ratio: float, seed: int, size: int | None) -> PeerResult:
    """Prune a network of the zoo with Torch-Pruning's magnitude pruner, without hints.

    Args:
        name: A config under mmcls's ``_base_/models``.
        ratio: Share of its channels that every group keeps.
        seed: Of the network's numbers and of the images.
        size: Height and width of the images; the smallest that the network accepts if None.
    """
    original = build(name, seed)
    batch = images(original, size, seed=seed)
    full = run(original, batch)
    model = copy.deepcopy(original)
    started = time.perf_counter()
    try:
        prune_in_place(model, batch, ratio, full.shape[1])
    except Exception as error:
        return PeerResult('fails', _told('pruning', error))
    seconds = time.perf_counter() - started
    kept = count_params(model) / count_params(original)
    try:
        output = run(model.eval(), batch)
    except Exception as error:
        return PeerResult('fails', _told('running', error), kept, None, seconds)
    if output.shape != full.shape:
        detail = f'the output is {tuple(output.shape)}, was {tuple(full.shape)}'
        return PeerResult('wrong', detail, kept, None, seconds)
    try:
        wanted = run(zeroed_like(original, model), batch)
    except ValueError as unclear:
        return PeerResult('unproven', str(unclear), kept, None, seconds)
    off = difference(wanted, output)
    return PeerResult('exact' if off <= EXACT_BAR else 'wrong', '', kept, off, seconds)


def prune_in_place(
    model: nn.Module, batch: torch.Tensor, ratio: float, classes: int, p: int = 2
) -> None:
    """Remove channels from every group but the outputs of the classifier, by their Lp norm."""
    import torch_pruning

    outputs = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        batch,
        importance=torch_pruning.importance.MagnitudeImportance(p=p),
        pruning_ratio=1 - ratio,
        ignored_layers=outputs,
    )
    pruner.step()


def _told(what: str, error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{what}: {type(error).__name__}: {text[:150]}'


class PeerRun:
    """Torch-Pruning at work on one network, in another process.

    Use it as a context: the process is gone when the block is left.

    Args:
        name: See ``prune``, likewise the others.
        limit: Seconds that it may take.
    """

    def __init__(
        self, name: str, ratio: float, seed: int, size: int | None, limit: float = SECONDS
    ) -> None:
        self.limit, self.started = limit, time.monotonic()
        self.pool = get_context('spawn').Pool(1, _begin)
        self.pruned = self.pool.apply_async(prune, (name, ratio, seed, size))

    def result(self) -> PeerResult:
        """What came out; waits for it as long as the limit allows."""
        try:
            return self.pruned.get(max(self.limit - (time.monotonic() - self.started), 0))
        except TimeoutError:
            return PeerResult('no end', f'stopped after {self.limit:g} s')
        except Exception as error:
            return PeerResult('fails', _told('the process', error))

    def __enter__(self) -> PeerRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()
        self.pool.join()


def _begin() -> None:
    """What the process does first: one thread, beside those of mmprune at work, and no word."""
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel('WARNING')
    warnings.simplefilter('ignore')
    sys.stdout = sys.stderr = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
