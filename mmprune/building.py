"""Objects from configs, with one message where a name or an option is mistaken."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_type_hints

from mmengine.registry import OPTIMIZERS, Registry, build_from_cfg

from mmprune.errors import InputError, alternatives, nearest
from mmprune.schema import checked


def build_checked(cfg: Any, registry: Registry, *args: Any, **kwargs: Any) -> Any:
    """Build an object from a config, as ``Registry.build`` does.

    Raises:
        InputError: The config has no known ``type``, or the type has no such option. The message
            lists what there is.
    """
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise InputError(
            f"{registry.name}: expected a config with a type, dict(type='...', ...), found "
            f'{cfg!r}; {nearest("", _entries(registry))}'
        )
    kind = cfg['type']
    found = registry.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise InputError(
            f'there is no {registry.name} {kind!r}; {nearest(kind, _entries(registry))}'
        )
    name = getattr(found, '__name__', str(found))
    given = [key for key in cfg if key not in ('type', '_scope_')]
    check_options(found, given, name)
    try:
        return build_from_cfg(cfg, registry, *args, **kwargs)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        if not isinstance(error, InputError):
            check_types(found, {key: cfg[key] for key in given}, name)
        # A class that hands options on may set some of them itself.
        if 'multiple values for keyword argument' not in str(error):
            raise
        option = str(error).rsplit(' ', 1)[-1].strip("'")
        raise InputError(f'{name} sets {option} by itself: leave it out') from error


def check_options(target: Callable[..., Any], given: Iterable[str], name: str) -> None:
    """Refuse options that a class or function does not have, and calls that lack needed ones.

    Args:
        target: Options that it hands on (``**kwargs``) are looked up in its bases.
        given: Names of the options.
        name: What the message calls it.

    Raises:
        InputError: An option is unknown, or one without a default is missing.
    """
    options, takes_any = options_of(target)
    given = list(given)
    unknown = [key for key in given if key not in options]
    if unknown and not takes_any:
        raise InputError(
            f'{name} has no option {unknown[0]!r}; {alternatives(unknown[0], options)}'
        )
    missing = [key for key, needed in options.items() if needed and key not in given]
    if missing:
        raise InputError(f'{name} needs {" and ".join(missing)}; it takes {", ".join(options)}')


def refuse_options(error: TypeError, source: str) -> None:
    """Tell that a config gives a class options that it does not have, if that is what an error is.

    Args:
        error: What was raised while mmengine built something.
        source: The config, for the message.

    Raises:
        InputError: It was.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for number, frame in reversed(list(enumerate(frames))):
        here = frame.f_locals
        if frame.f_code is build_from_cfg.__code__ and 'obj_cls' in here:
            # What happens in a class beyond handing options on to its bases is its own matter.
            if all(each.f_code.co_name == '__init__' for each in frames[number + 1 :]):
                name = getattr(here['obj_cls'], '__name__', str(here['obj_cls']))
                check_options(here['obj_cls'], here['args'], f'{source}: {name}')
            return
        optimizer = getattr(here.get('self'), 'optimizer_cfg', None)
        if str(error) == 'None is not a callable object' and optimizer is not None:
            raise InputError(
                f'{source}: there is no optimizer {optimizer["type"]!r}; '
                f'{nearest(optimizer["type"], _entries(OPTIMIZERS))}'
            ) from error


def check_parts(config: Any, registries: Sequence[Registry], where: str) -> None:
    """Refuse options of other types than mmprune's own classes say that they take.

    Args:
        config: All of a config, or a part.
        registries: Where classes are that it calls ``mmprune.<name>``.
        where: What the message calls it.

    Raises:
        InputError: Names the option, what is expected, and what was found.
    """
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, Mapping):
        items = config.items()
        scope, _, name = str(config.get('type')).rpartition('.')
        if scope == 'mmprune':
            tables = map(_entries, registries)
            found = next((table[name] for table in tables if name in table), object)
            given = {key: value for key, value in items if key not in ('type', '_scope_')}
            check_types(found, given, f'{where}: {name}')
    elif isinstance(config, list | tuple):
        items = enumerate(config)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            check_parts(value, registries, f'{where}: {key}')


def check_types(target: Callable[..., Any], given: Mapping[str, Any], where: str) -> None:
    """Refuse options of other types than a class or function says that it takes.

    Args:
        target: Options that a class hands on are looked up in its bases.
        given: The options; those whose type is not said are not looked at.
        where: What the message calls them.

    Raises:
        InputError: Names the option, what is expected, and what was found.
    """
    hints: dict[str, Any] = {}
    makers: list[Any] = [target]
    if inspect.isclass(target):
        makers = [vars(each).get('__init__') for each in reversed(target.__mro__)]
    for maker in filter(inspect.isfunction, makers):
        with suppress(NameError):  # a type that is imported for checkers alone
            hints.update(get_type_hints(maker))
    for key, value in given.items():
        checked(hints.get(key, Any), value, f'{where}: {key}')


def options_of(target: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Options of a class or function -> whether each is needed; and whether it takes any other."""
    options: dict[str, bool] = {}
    makers = [target]
    if inspect.isclass(target):
        makers = [vars(each)['__init__'] for each in target.__mro__ if '__init__' in vars(each)]
    for number, maker in enumerate(makers):
        try:
            parameters = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):  # built in, without a signature
            return options, True
        for parameter in parameters[1:] if inspect.isclass(target) else parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                # What a base needs may be given by the class that hands options on.
                needed = parameter.default is parameter.empty and number == 0
                options.setdefault(parameter.name, needed)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return options, False
    return options, True


def _entries(registry: Registry) -> dict[str, Any]:
    registry.import_from_location()
    return registry.module_dict
