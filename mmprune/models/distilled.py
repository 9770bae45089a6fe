"""A network that is trained with another one as its teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mmprune.building import check_options
from mmprune.checkpoint import load_weights
from mmprune.errors import InputError, check_choice
from mmprune.models.algorithm import load_network
from mmprune.models.deployed import without_pretrained
from mmprune.models.distillers import SelfDistiller
from mmprune.models.kept_channels import Kept, kept_by_config
from mmprune.randomness import seeded
from mmprune.registry import MODELS
from mmprune.trace import Road
from mmprune.trace.walking import is_walking

Losses = Mapping[str, Any]


def distilled_model(
    architecture: Mapping[str, Any] | nn.Module,
    teacher: Mapping[str, Any] | nn.Module,
    distiller: Mapping[str, Any] | SelfDistiller,
    channel_cfg: str | Path | Mapping[str, Any] | None = None,
    teacher_mode: str = 'tensor',
    data_preprocessor: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a network whose training losses are joined by those of a teacher.

    In a config: ``model=dict(type='mmprune.DistilledModel', architecture=<the student>,
    teacher=dict(checkpoint=<file>), distiller=dict(type='SelfDistiller', ...))``. What comes
    back is the student: its names, its state dict and its predictions are those of ``architecture``
    alone. Only ``forward(..., mode='loss')`` in training mode does more: it runs the teacher on
    the same inputs, and adds the distiller's losses.

    The teacher is loaded at the first such step, so testing needs no teacher. It is in eval mode,
    takes no gradients, and is no part of the student: neither optimizers nor checkpoints nor
    wrappers for several devices see it.

    Args:
        architecture: The student or its config, such as that of a ``DeployedModel``; any
            mmengine model.
        teacher: ``dict(checkpoint=<file>, config=...)``, where ``config`` is a file, one of
            another package (``'mmdet::...'``), or the config of a model; without it, the
            full network that the ``architecture`` was cut from. Or a network.
        distiller: A :class:`SelfDistiller` or its config; its losses have no weights of their own.
        channel_cfg: By which the student was cut from the teacher, if it was: where their widths
            differ, the channels that both have are compared, exactly. That of ``architecture``
            if left out.
        teacher_mode: The mode in which the teacher's forward is called, ``'tensor'`` or
            ``'loss'``, for modules that run for the loss only.
        data_preprocessor: For an ``architecture`` that brings none of its own.

    Raises:
        InputError: A field is missing or unknown, or a component names an unknown module.
    """
    config = dict(architecture) if isinstance(architecture, Mapping) else {}
    if isinstance(teacher, Mapping):
        teacher = {'config': config.get('model'), **teacher}
        check_options(_load_teacher, teacher, 'DistilledModel: teacher')
        if teacher['config'] is None:
            raise InputError(
                'DistilledModel: teacher needs a config: the architecture is no DeployedModel, '
                'whose full network it could be. teacher=dict(config=<file>, checkpoint=<file>)'
            )
    check_choice('teacher_mode', teacher_mode, ('tensor', 'loss'))
    losses = (
        distiller
        if isinstance(distiller, SelfDistiller)
        else MODELS.build({'_scope_': 'mmprune', **distiller})
    )
    if next(losses.parameters(), None) is not None:
        raise InputError('DistilledModel: a loss of the distiller has weights, which nobody trains')
    if isinstance(architecture, nn.Module):
        student: Any = architecture
    else:
        given = {} if data_preprocessor is None else {'data_preprocessor': data_preprocessor}
        student = MODELS.build({**given, **deepcopy(config)})
    losses.check(student, ['student'])
    cfg = config.get('channel_cfg') if channel_cfg is None else channel_cfg
    student.teaching = Teaching(teacher, losses, cfg, teacher_mode)
    student.__class__ = type(f'Distilled{type(student).__name__}', (Taught, type(student)), {})
    return student


MODELS.register_module(name='DistilledModel', module=distilled_model)


class Taught(nn.Module):
    """Mixed into the class of a network that has a teacher."""

    teaching: Teaching

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """What the network's own forward gives; the losses of training have the teacher's too."""

        def run(mode: str) -> Any:
            return super(Taught, self).forward(inputs, data_samples, mode=mode, **kwargs)

        if mode != 'loss' or not self.training or is_walking():
            return run(mode)
        return self.teaching.losses(self, run, inputs, data_samples)


@dataclass(eq=False)
class Teaching:
    """A student's teacher, and what the two are compared by.

    Attributes:
        source: The teacher, or what ``_load_teacher`` takes to load it.
        distiller: See :func:`distilled_model`, as the others.
        channel_cfg: See there.
        mode: The ``teacher_mode``.
    """

    source: Mapping[str, Any] | nn.Module
    distiller: SelfDistiller
    channel_cfg: str | Path | Mapping[str, Any] | None
    mode: str
    _teacher: nn.Module | None = None
    _kept: Kept | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teaching:
        """A copy of the student, such as an average of its weights, has the same teacher."""
        return self

    def teacher(self, device: torch.device) -> nn.Module:
        """The teacher on a device, frozen and in eval mode."""
        if self._teacher is None:
            source = self.source
            teacher = source if isinstance(source, nn.Module) else _load_teacher(**source)
            self.distiller.check(teacher, ['teacher'])
            teacher.requires_grad_(False).train(False)
            self._teacher = teacher
        if next(self._teacher.parameters()).device != device:
            self._teacher.to(device)
        return self._teacher

    def losses(
        self, student: nn.Module, run: Callable[[str], Losses], inputs: Any, data_samples: Any
    ) -> Losses:
        """The losses of a student on a batch, and those between it and its teacher.

        Args:
            student: In training mode.
            run: Runs it on the batch in a mode.
            inputs: What it is given.
            data_samples: Its labels.
        """
        teacher = self.teacher(next(student.parameters()).device)
        try:
            with self.distiller.teacher(teacher), torch.no_grad():
                teacher(inputs, data_samples, mode=self.mode)
            with self.distiller.student(student):
                losses = run('loss')
            if self._kept is None and self.distiller.differ():
                self._kept = self._find_kept(teacher, inputs, data_samples)
            return {**losses, **self.distiller.loss(self._kept)}
        finally:
            self.distiller.clear()

    def _find_kept(self, teacher: nn.Module, inputs: Any, data_samples: Any) -> Kept:
        """Trace the teacher on the first image, and follow the channel config through it."""
        if self.channel_cfg is None:
            return {}
        if isinstance(inputs, Tensor | list) and isinstance(data_samples, list | None):
            inputs, data_samples = inputs[:1], data_samples and data_samples[:1]
        road = Road('eval', lambda model: model(inputs, data_samples, mode=self.mode))
        device = next(teacher.parameters()).device
        try:
            with torch.autocast(device.type, enabled=False):
                names = self.distiller.teacher_modules
                kept = kept_by_config(teacher, road, self.channel_cfg, names)
        except InputError as error:
            message = f'DistilledModel: which channels both networks have is unknown: {error}'
            print_log(message, 'current', logging.WARNING)
            return {}
        return tree_map(lambda index: index.to(device), kept)


def _load_teacher(config: str | Path | Mapping[str, Any], checkpoint: str | Path) -> nn.Module:
    """The network of a config with a checkpoint's weights.

    What is drawn at random, and which scope names are of, is as before then.

    Args:
        config: A file, one of another package (``'mmdet::...'``), or the config of a model.
        checkpoint: Fits the model exactly.
    """
    scope = DefaultScope.get_current_instance()
    name = 'mmengine' if scope is None else scope.scope_name
    with seeded(0), DefaultScope.overwrite_default_scope(name):
        if isinstance(config, Mapping):
            network = MODELS.build(without_pretrained(deepcopy(dict(config))))
            load_weights(network, checkpoint)
            return network
        return load_network(get_config(config) if '::' in str(config) else config, checkpoint)
