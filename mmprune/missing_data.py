"""Data that a config names and that is not there, told in one message."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmprune.errors import InputError, MissingFileError

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_PLACES = ('data_root', 'data_prefix', 'ann_file')


@contextmanager
def data_named(cfg: Config) -> Iterator[None]:
    """Turn what a dataset raises about a missing file into a message about the config.

    Which files a dataset reads, and which it downloads, it knows alone; so nothing is looked
    for before.

    Raises:
        MissingFileError: A file was missing that lies where a dataset of the config has its data.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        text = f'{error.filename or ""} {error}'
        for where, path in _data_paths(cfg):
            if path in text or os.path.abspath(path) in text:
                raise MissingFileError(_message(cfg, where, path, error)) from error
        raise


def _message(cfg: Config, where: str, path: str, error: FileNotFoundError) -> str:
    key = f'{where}.data_root' if f'{where}.data_root' in dict(_settings(cfg)) else where
    state = 'is there, but not all of it' if Path(path).exists() else 'does not exist'
    return (
        f'{cfg.filename}: the data of {where} cannot be read: {path} {state} (looked from '
        f'{Path.cwd()}; {error}). Put the data there, or name its place: '
        f'--cfg-options {key}=/path/to/data'
    )


def _data_paths(cfg: Config) -> Iterator[tuple[str, str]]:
    """(dataset's place in the config, path), the longest paths first."""
    found = []
    for where, dataset in _datasets(cfg):
        root = str(dataset.get('data_root') or '')
        places = [dataset.get(place) for place in _PLACES[1:]]
        values = [v for p in places for v in (p.values() if isinstance(p, Mapping) else [p])]
        paths = [root, *(os.path.join(root, str(value)) for value in values if value)]
        found += [(where, path.rstrip('/')) for path in paths if path.strip('/.')]
    yield from sorted(found, key=lambda pair: -len(pair[1]))


def _settings(cfg: Config) -> Iterator[tuple[str, Any]]:
    for where, dataset in _datasets(cfg):
        for key in _PLACES:
            if dataset.get(key):
                yield f'{where}.{key}', dataset[key]


def _datasets(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dataset of the config, those inside of wrappers too, with its dotted name."""
    loaders = [(name, cfg.get(name)) for name in DATALOADERS]
    loaders.append(('search_cfg.dataloader', (cfg.get('search_cfg') or {}).get('dataloader')))
    waiting = [(f'{name}.dataset', loader.get('dataset')) for name, loader in loaders if loader]
    while waiting:
        where, dataset = waiting.pop(0)
        if isinstance(dataset, Mapping):
            yield where, dataset
            waiting.append((f'{where}.dataset', dataset.get('dataset')))
            inner = dataset.get('datasets') or ()
            waiting += [(f'{where}.datasets.{n}', each) for n, each in enumerate(inner)]
