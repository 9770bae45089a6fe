"""Distillation of a network from itself: the widest subnet teaches the others."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmprune.errors import InputError, nearest
from mmprune.registry import MODELS


@dataclass(frozen=True)
class Component:
    """One pair of modules whose outputs are compared, and the losses between them."""

    student_module: str
    teacher_module: str
    loss_names: tuple[str, ...]


@MODELS.register_module()
class SelfDistiller(nn.Module):
    """Compares outputs of one network's modules between two of its widths.

    The outputs are recorded by forward hooks that exist only inside
    :meth:`teacher` and :meth:`student`, so the network stays as it is.

    Args:
        components: One dict per pair: ``student_module`` and ``teacher_module``,
            names of modules of the network such as ``head.fc`` whose outputs are
            tensors of the same shape, and ``losses``, configs of MODELS called
            with (student, teacher). The name of a loss in the logs is its
            ``name``, by default ``<student_module>.<type>`` in lower case.

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
        self._outputs: dict[tuple[str, str], Tensor] = {}

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

    def check(self, network: nn.Module) -> None:
        """Raise InputError if ``network`` lacks a module that a component names."""
        known = dict(network.named_modules())
        for component in self.components:
            for name in (component.student_module, component.teacher_module):
                if name not in known:
                    raise InputError(
                        f'SelfDistiller: {type(network).__name__} has no module {name!r}; '
                        f'{_offered(name, [key for key in known if key])}'
                    )

    @contextmanager
    def teacher(self, network: nn.Module) -> Iterator[None]:
        """Record what the teacher's modules put out inside the ``with`` block."""
        self._outputs.clear()
        with self._recording(network, 'teacher'):
            yield

    @contextmanager
    def student(self, network: nn.Module) -> Iterator[None]:
        """Record what the student's modules put out inside the ``with`` block."""
        with self._recording(network, 'student'):
            yield

    @contextmanager
    def _recording(self, network: nn.Module, role: str) -> Iterator[None]:
        modules = dict(network.named_modules())
        with ExitStack() as stack:
            for component in self.components:
                name = getattr(component, f'{role}_module')
                hook = partial(self._record, role, name)
                handle = modules[name].register_forward_hook(hook)
                stack.callback(handle.remove)
            yield

    def _record(
        self, role: str, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any
    ) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(
                f'SelfDistiller compares tensors, but {name} ({type(module).__name__}) puts '
                f'out a {type(output).__name__}: name a module inside it.'
            )
        self._outputs[role, name] = output.detach() if role == 'teacher' else output

    def loss(self) -> dict[str, Tensor]:
        """Return the losses between what was recorded last, by name.

        Raises:
            RuntimeError: If one side was not recorded, or the module did not run.
        """
        losses: dict[str, Tensor] = {}
        for component in self.components:
            outputs = []
            for role in ('student', 'teacher'):
                name = getattr(component, f'{role}_module')
                if (role, name) not in self._outputs:
                    raise RuntimeError(f'SelfDistiller: {name} did not run as the {role}.')
                outputs.append(self._outputs[role, name])
            for name in component.loss_names:
                losses[f'{name}_loss'] = self.losses[_key(name)](*outputs)
        return losses

    def clear(self) -> None:
        """Forget the recorded outputs, which would keep a graph alive."""
        self._outputs.clear()


def _offered(name: str, known: list[str]) -> str:
    """Modules of the same last name first, wherever they are."""
    last = [key for key in known if key.rpartition('.')[2] == name.rpartition('.')[2]]
    return f'did you mean {" or ".join(map(repr, last[:3]))}?' if last else nearest(name, known)


def _key(name: str) -> str:
    """Return ``name`` as a key of a ModuleDict, which takes no dots."""
    return name.replace('.', '-')
