"""Batches of a training dataloader as a code base's own preprocessor makes them, unmixed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import FUNCTIONS
from torch import nn
from torch.utils._pytree import tree_leaves

from mmprune.errors import InputError
from mmprune.randomness import seeded
from mmprune.trace.chance import without_chance
from mmprune.trace.roads import told_progress


def training_data(preprocessor: nn.Module, batch: Any) -> Mapping[str, Any]:
    """What a model is called with in training, from a batch of its dataloader; that stays.

    Some preprocessors pad images of different sizes in training mode only, and take what some
    collate functions give there only; so this is that mode. What mixes images is off: their
    labels are mixed too, and statistics over them are not those of images.

    Args:
        preprocessor: ``data_preprocessor`` of an mmengine model.
        batch: As the dataloader collates it.
    """
    with _unmixed(preprocessor), seeded(0):
        return dict(preprocessor(deepcopy(batch), True))


def training_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss of an mmengine model on a batch of its dataloader, without mixing of images.

    Raises:
        InputError: The model is none of mmengine's.
    """
    if not isinstance(model, BaseModel):
        raise InputError(
            f'a {type(model).__name__} is no model of mmengine, so that the loss of a batch is '
            'unknown: call pruner.collect(batches, loss_fn) with a loss_fn of your own'
        )
    data = training_data(model.data_preprocessor, batch)
    with _in_training_but_for_layers(model), seeded(0), without_chance():
        return model.parse_losses(model(**data, mode='loss'))[0]


class TrainingData(Sequence[Mapping[str, Any]]):
    """Training batches as a model is called with them, for many passes over them.

    Each is preprocessed once if they fit into memory, at every pass otherwise.

    Args:
        preprocessor: ``data_preprocessor`` of an mmengine model.
        batches: As the dataloader collates them.
        room: Bytes of inputs to keep at most.
    """

    def __init__(self, preprocessor: nn.Module, batches: Sequence[Any], room: int = 2**30) -> None:
        self.preprocessor, self.batches, self.room = preprocessor, batches, room
        self._kept: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: Any) -> Any:
        data = self._kept.get(number) or training_data(self.preprocessor, self.batches[number])
        size = sum(each.nbytes for each in tree_leaves(data['inputs']) if hasattr(each, 'nbytes'))
        if number not in self._kept and size <= self.room:
            self.room -= size
            self._kept[number] = data
        return data


def collate_function(settings: Any) -> Callable[..., Any]:
    """A dataloader's ``collate_fn``; to be called when the dataset, which may bring it, is built.

    Raises:
        InputError: There is no such function.
    """
    if not isinstance(settings, Mapping | None):
        return settings
    options = dict(settings or dict(type='pseudo_collate'))
    kind = options.pop('type')
    function = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
    if function is None:
        raise InputError(
            f"train_dataloader.collate_fn: there is no function '{kind}': import the module that "
            "registers it by custom_imports=dict(imports=['...'], allow_failed_imports=False)"
        )
    return partial(function, **options)


@contextlib.contextmanager
def _unmixed(preprocessor: nn.Module) -> Iterator[None]:
    """Batch augmentations are off, but for modules, which pad and resize whole batches.

    These may ask which iteration it is, and remember a size.
    """
    augments = getattr(preprocessor, 'batch_augments', None)
    if not isinstance(augments, nn.Module):
        if augments is not None:
            vars(preprocessor)['batch_augments'] = None
        try:
            yield
        finally:
            if augments is not None:
                vars(preprocessor)['batch_augments'] = augments
        return
    before = [dict(vars(module)) for module in augments.modules()]
    try:
        with told_progress(iter=0):
            yield
    finally:
        for module, own in zip(augments.modules(), before, strict=True):
            vars(module).update(own)


@contextlib.contextmanager
def _in_training_but_for_layers(model: nn.Module) -> Iterator[None]:
    """Context in which parts of a model give what their loss needs, some in training mode only.

    Layers, which are torch's or have no parts, stay in the mode that they are in: nothing is
    written to norms, and nothing is dropped.
    """
    own = (m for m in model.modules() if not type(m).__module__.startswith('torch.'))
    parts = [module for module in own if list(module.children())]
    before = [(part, part.training) for part in parts]
    try:
        for part in parts:
            part.training = True
        yield
    finally:
        for part, mode in before:
            part.training = mode
