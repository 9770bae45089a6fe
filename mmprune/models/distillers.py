"""Distillation: what a student's modules put out is compared with what a teacher's do."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmprune.errors import InputError, nearest
from mmprune.models.kept_channels import Kept
from mmprune.registry import MODELS
from mmprune.trace.calls import tensors_in


@dataclass(frozen=True)
class Component:
    """One pair of modules whose outputs are compared, and the losses between them."""

    student_module: str
    teacher_module: str
    loss_names: tuple[str, ...]


@MODELS.register_module()
class SelfDistiller(nn.Module):
    """Compares outputs of modules, between two widths of one network or between two networks.

    The outputs are recorded by forward hooks that exist only inside
    :meth:`teacher` and :meth:`student`, so the networks stay as they are.

    Args:
        components: One dict per pair: ``student_module`` and ``teacher_module``,
            names of modules such as ``head.fc``, and ``losses``, configs of MODELS called
            with (student, teacher). The name of a loss in the logs is its
            ``name``, by default ``<student_module>.<type>`` in lower case. A module may put out
            several tensors, in tuples, lists and dicts, and may be called several times, as a
            detector's head is for every level: tensors are paired in order, and the losses of
            all pairs are added up.

    Raises:
        InputError: If there are no components, one has no losses, or two losses
            have the same name.
    """

    def __init__(self, components: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        if not components:
            raise InputError('SelfDistiller needs at least one component, got none.')
        self.losses = nn.ModuleDict()
        self.components = [self._build(deepcopy(dict(component))) for component in components]
        self._outputs: dict[tuple[str, str], list[Tensor]] = {}
        self._left_out: dict[Component, str] = {}

    def _build(self, component: dict[str, Any]) -> Component:
        pair = {key: component.get(key) for key in ('student_module', 'teacher_module')}
        if None in pair.values() or not component.get('losses'):
            raise InputError(
                'A component of SelfDistiller needs student_module, teacher_module and '
                f'losses (not empty), got {component}'
            )
        names = []
        for config in component['losses']:
            config = dict(config)
            kind = str(config['type']).rsplit('.', 1)[-1]
            name = config.pop('name', f'{pair["student_module"]}.{kind}').lower()
            if _key(name) in self.losses:
                raise InputError(f'Two losses of SelfDistiller are named {name}: give a `name`.')
            # Plain names mean mmprune's losses, whatever the config's default scope.
            self.losses[_key(name)] = MODELS.build({'_scope_': 'mmprune', **config})
            names.append(name)
        return Component(str(pair['student_module']), str(pair['teacher_module']), tuple(names))

    @property
    def teacher_modules(self) -> list[str]:
        """The teacher's modules that are compared, each once."""
        return list(dict.fromkeys(component.teacher_module for component in self.components))

    def check(self, network: nn.Module, roles: Sequence[str] = ('student', 'teacher')) -> None:
        """Raise InputError if ``network`` lacks a module that a component names for a role."""
        known = _modules_of(network)
        for component in self.components:
            for name in [getattr(component, f'{role}_module') for role in roles]:
                if name not in known:
                    raise InputError(
                        f'SelfDistiller: {type(network).__name__} has no module {name!r}; '
                        f'{_offered(name, [key for key in known if key])}'
                    )

    def teacher(self, network: nn.Module) -> AbstractContextManager[None]:
        """Record what the teacher's modules put out inside the ``with`` block."""
        self._outputs.clear()
        return self._recording(network, 'teacher')

    def student(self, network: nn.Module) -> AbstractContextManager[None]:
        """Record what the student's modules put out inside the ``with`` block."""
        return self._recording(network, 'student')

    @contextmanager
    def _recording(self, network: nn.Module, role: str) -> Iterator[None]:
        modules = _modules_of(network)
        with ExitStack() as stack:
            for name in {getattr(component, f'{role}_module') for component in self.components}:
                self._outputs[role, name] = []
                hook = partial(self._record, role, name)
                stack.callback(modules[name].register_forward_hook(hook).remove)
            yield

    def _record(
        self, role: str, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any
    ) -> None:
        tensors = tensors_in(output)
        if not tensors:
            raise InputError(
                f'SelfDistiller compares tensors, but {name} ({type(module).__name__}) puts '
                f'out a {type(output).__name__}: name a module inside it.'
            )
        self._outputs[role, name] += [t.detach() for t in tensors] if role == 'teacher' else tensors

    def differ(self) -> bool:
        """Whether a student's tensor that was recorded has another shape than the teacher's."""
        pairs = (pair for component in self.components for pair in self._pairs(component))
        return any(student.shape != teacher.shape for student, teacher in pairs)

    def loss(self, kept: Kept | None = None) -> dict[str, Tensor]:
        """Return the losses between what was recorded last, by name.

        Args:
            kept: Which channels of the teacher's tensors the student has, by module of the
                teacher's; the others are not compared. Tensors that have other shapes
                all the same are left out, which is said once for each component.

        Raises:
            InputError: If a module did not run or put out other numbers of tensors on the two
                sides, the student's outputs carry no gradient, or nothing can be compared.
        """
        losses: dict[str, Tensor] = {}
        for component in self.components:
            pairs = [pair for pair in self._aligned(component, kept or {}) if pair is not None]
            for name in component.loss_names if pairs else ():
                values = [self.losses[_key(name)](*pair) for pair in pairs]
                losses[f'{name}_loss'] = sum(values[1:], values[0])
        if not losses:
            raise InputError(
                'SelfDistiller: nothing can be compared: '
                + '; '.join(self._left_out.values())
                + '. Name modules with as many channels on both sides, or give the channel config '
                'by which the student was cut from the teacher'
            )
        return losses

    def _pairs(self, component: Component) -> list[tuple[Tensor, Tensor]]:
        """What was recorded of a component, in order."""
        sides = []
        for role in ('student', 'teacher'):
            name = getattr(component, f'{role}_module')
            sides.append(self._outputs.get((role, name), []))
            if not sides[-1]:
                raise InputError(
                    f'SelfDistiller: {name} did not run as the {role}. If its forward is called '
                    'directly, not through the module, name a module inside it'
                )
        student, teacher = sides
        if len(student) != len(teacher):
            raise InputError(
                f'SelfDistiller: {component.student_module} put out {len(student)} tensors as the '
                f'student, {component.teacher_module} {len(teacher)} as the teacher: name modules '
                'that run equally often'
            )
        if torch.is_grad_enabled() and not any(tensor.requires_grad for tensor in student):
            raise InputError(
                f'SelfDistiller: the outputs of {component.student_module} carry no gradient: it '
                'is frozen, or inside of a part that is checkpointed. Name a module behind it'
            )
        return list(zip(student, teacher, strict=True))

    def _aligned(self, component: Component, kept: Kept) -> Iterator[tuple[Tensor, Tensor] | None]:
        """The pairs of a component on the channels that both have; None for those left out."""
        pairs = self._pairs(component)
        cuts = kept.get(component.teacher_module, [])
        if len(cuts) != len(pairs):
            cuts = [None] * len(pairs)
        for (student, teacher), cut in zip(pairs, cuts, strict=True):
            # Masked execution computes all of the student's channels too.
            is_full = student.shape == teacher.shape
            for dim, index in (cut or {}).items():
                index = index.to(teacher.device)
                teacher = teacher.index_select(dim, index)
                student = student.index_select(dim, index) if is_full else student
            if student.shape == teacher.shape:
                yield student, teacher
            else:
                self._leave_out(component, student, teacher)
                yield None

    def _leave_out(self, component: Component, student: Tensor, teacher: Tensor) -> None:
        """Say once that something of a component is not compared."""
        if component in self._left_out:
            return
        shapes = [tuple(tensor.shape[1:]) for tensor in (student, teacher)]
        text = (
            f'{component.student_module} gives {shapes[0]} per sample as the student, '
            f'{component.teacher_module} {shapes[1]} as the teacher'
        )
        self._left_out[component] = text
        message = f'SelfDistiller leaves out what it cannot compare: {text}.'
        print_log(message, 'current', logging.WARNING)

    def clear(self) -> None:
        """Forget the recorded outputs, which would keep a graph alive."""
        self._outputs.clear()


def _modules_of(network: nn.Module) -> Mapping[str, nn.Module]:
    """All modules by all of their names."""
    return dict(network.named_modules(remove_duplicate=False))


def _offered(name: str, known: list[str]) -> str:
    """Modules of the same last name first, wherever they are."""
    last = [key for key in known if key.rpartition('.')[2] == name.rpartition('.')[2]]
    return f'did you mean {" or ".join(map(repr, last[:3]))}?' if last else nearest(name, known)


def _key(name: str) -> str:
    """Return ``name`` as a key of a ModuleDict, which takes no dots."""
    return name.replace('.', '-')
