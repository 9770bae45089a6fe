"""What a search has evaluated, on disk after every candidate.

The search loops draw nothing that depends on anything but their settings and
on earlier evaluations, so a search that was stopped resumes by running again
from its start, with every evaluation that the file holds answered at once. No
state but the evaluations has to be stored, and the result is the one that an
uninterrupted search gives.

The file has one JSON object per line: first the settings, then the evaluations
in order. A line is written in one piece; the half line that a power cut may
leave at the end is dropped when the file is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprune.errors import InputError, MissingFileError
from mmprune.execution import MASK_NAMES
from mmprune.fileio import atomic_path

FORMAT = 'mmprune search history 1'
RESULTS = 'search_results.json'
# How many changed settings a message lists.
_LISTED = 5


@dataclass(frozen=True)
class Evaluation:
    """One candidate of a search.

    Attributes:
        index: Its place in the history, from 0.
        origin: Where it came from, in words.
        key: Digest of its kept channels.
        macs: Multiply-adds on the demo input.
        params: Number of parameters.
        metric: The value that the search compares; None if the evaluator did not give it.
        channels: Kept channels of every group.
        latency: Predicted milliseconds, if the search has a table.
        metrics: All values that the evaluator gave.
    """

    index: int
    origin: str
    key: str
    macs: int
    params: int
    metric: float | None
    channels: dict[str, int]
    latency: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class SearchHistory:
    """The evaluations of one search, found by subnet.

    Args:
        path: The file. What an earlier search has left is not overwritten: see :func:`set_aside`.
        settings: What the evaluations depend on: plain data that JSON can hold.
        resume: Go on from the file at ``path``, which must have the same settings, if there is one.
        is_writer: Whether this process writes; the others only remember.

    Raises:
        InputError: If the file to resume from is no history, or one of a search with other
            settings. Nothing is written then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: dict[str, Any],
        resume: bool = False,
        is_writer: bool = True,
    ) -> None:
        self.path = Path(path)
        self.is_writer = is_writer
        self._by_key: dict[str, Evaluation] = {}
        is_resumed = resume and self.path.is_file()
        if is_resumed:
            for evaluation in read_history(self.path, settings):
                self._by_key[evaluation.key] = evaluation
        if is_writer:
            if not is_resumed:
                set_aside(self.path)
            with atomic_path(self.path) as unfinished:
                lines = [_header(settings), *(asdict(e) for e in self._by_key.values())]
                unfinished.write_text(''.join(map(_line, lines)), encoding='utf-8')
        self.num_resumed = len(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: str) -> Evaluation | None:
        """Return the evaluation of the subnet with this key, if there is one."""
        return self._by_key.get(key)

    def add(self, evaluation: Evaluation) -> None:
        """Remember an evaluation and put it on the disk."""
        self._by_key[evaluation.key] = evaluation
        if self.is_writer:
            with self.path.open('a', encoding='utf-8') as file:
                file.write(_line(asdict(evaluation)))
                file.flush()
                os.fsync(file.fileno())


def read_history(path: Path, settings: dict[str, Any] | None = None) -> list[Evaluation]:
    """Return the evaluations in a history file.

    Args:
        path: The file.
        settings: What the evaluations must have been made with; None takes any.

    Raises:
        InputError: If the file is missing, no history, broken elsewhere than in its
            last line, or of a search with other settings.
    """
    if not path.is_file():
        raise MissingFileError(f'{path}: there is no history of a search.')
    # What follows the last line break is a line that was never finished.
    lines = path.read_text(encoding='utf-8').split('\n')[:-1]
    try:
        header, *rest = [json.loads(line) for line in lines]
        if header['format'] != FORMAT:
            raise ValueError(f'the format is {header["format"]!r}, not {FORMAT!r}')
        evaluations = [Evaluation(**line) for line in rest]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: not the history of a search ({error}).') from error
    if settings is not None:
        wanted, found = dict(_leaves(settings)), dict(_leaves(header['settings']))
        changed = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        if changed:
            key, more = changed[0], ', ...' if len(changed) > _LISTED else ''
            raise InputError(
                f'{path}: is of another search: {", ".join(changed[:_LISTED])}{more} changed ({key} '
                f'was {found.get(key)}, is {wanted.get(key)}). Leave out --resume to start anew.'
            )
    return evaluations


def set_aside(history: Path) -> None:
    """Move what an earlier search has left into the next ``earlier_<number>`` beside it.

    Args:
        history: Where the history of the new search will be. That of the earlier one goes last,
            so that one which is killed meanwhile can still be gone on with.
    """
    results = history.with_name(RESULTS)
    names = [RESULTS, history.name]
    with suppress(OSError, ValueError, KeyError, TypeError):
        listed = json.loads(results.read_text(encoding='utf-8'))
        names = [*(Path(each['channel_cfg']).name for each in listed), *names]
    old = [file for file in map(history.with_name, names) if file.is_file()]
    if not old:
        return
    number = 1
    while (place := history.with_name(f'earlier_{number}')).exists():
        number += 1
    place.mkdir()
    for file in old:
        os.replace(file, place / file.name)


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


def _leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """The values in nested settings by dotted names."""
    if isinstance(value, Mapping | list | tuple) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, each in items:
            yield from _leaves(each, f'{name}.{key}' if name else str(key))
    else:
        yield name, [] if isinstance(value, Mapping | list | tuple) else value


def subnet_key(subnet: Mapping[str, Tensor]) -> str:
    """Return a digest of the kept channels of every group."""
    digest = hashlib.sha256()
    for space_id in sorted(subnet):
        digest.update(space_id.encode())
        digest.update((subnet[space_id].flatten() != 0).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_key(state: Mapping[str, Tensor]) -> str:
    """Return a digest of a state dict's values, leaving out the masks."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith(MASK_NAMES):
            digest.update(name.encode())
            value = state[name].detach().cpu().contiguous().reshape(-1)
            digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _header(settings: dict[str, Any]) -> dict[str, Any]:
    return {'format': FORMAT, 'settings': settings}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content) + '\n'
