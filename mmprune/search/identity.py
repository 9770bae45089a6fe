"""What makes two searches one: the configs that the values of their candidates come from."""

import re
from collections.abc import Iterator, Mapping
from typing import Any


def configs_of(cfg: Mapping[str, Any], dataloader: Any, evaluator: Any) -> dict[str, Any]:
    """What a candidate's values come from, as plain data: network, images, preprocessing, metrics.

    Args:
        cfg: The whole config.
        dataloader: The loader that candidates are evaluated on, or its config.
        evaluator: The metrics, or their config.
    """

    def images_of(loader: Any) -> dict[str, Any]:
        given = loader if isinstance(loader, Mapping) else {'dataset': loader}
        return {key: _plain(given.get(key)) for key in ('dataset', 'collate_fn')}

    train = cfg.get('train_dataloader') or {}
    return {
        **{key: _plain(cfg.get(key)) for key in ('model', 'data_preprocessor')},
        'images': images_of(dataloader),
        'evaluator': _plain(evaluator),
        'training_images': {**images_of(train), 'batch_size': train.get('batch_size')},
    }


def _plain(value: Any) -> Any:
    """A part of a config as data that JSON can hold; the same for two of equal meaning."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str | int | float | None):
        return value
    named = getattr(value, '__qualname__', None)
    return f'{value.__module__}.{named}' if named else re.sub(' at 0x[0-9a-f]+', '', repr(value))


def leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """The values in nested settings by dotted names."""
    if isinstance(value, Mapping | list | tuple) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, each in items:
            yield from leaves(each, f'{name}.{key}' if name else str(key))
    else:
        yield name, [] if isinstance(value, Mapping | list | tuple) else value
