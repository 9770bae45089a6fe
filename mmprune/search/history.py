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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprune.errors import InputError, MissingFileError
from mmprune.execution import MASK_NAMES
from mmprune.fileio import atomic_path

FORMAT = 'mmprune search history 1'
# How the masks of a supernet end in its state dict.


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
        path: The file. Without ``resume`` an earlier one is kept as ``<path>.old``.
        settings: What the evaluations depend on: plain data that JSON can hold.
        resume: Go on from the file at ``path``, which must have the same settings.
        is_writer: Whether this process writes; the others only remember.

    Raises:
        InputError: If the file to resume from is missing, no history, or one of a
            search with other settings. Nothing is written then.
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
        if resume:
            for evaluation in read_history(self.path, settings):
                self._by_key[evaluation.key] = evaluation
        if is_writer:
            if self.path.exists() and not resume:
                os.replace(self.path, self.path.with_name(f'{self.path.name}.old'))
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
        raise MissingFileError(f'{path}: no search to resume from; leave out --resume.')
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
        wanted, found = json.loads(json.dumps(settings)), header['settings']
        changed = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        if changed:
            key = changed[0]
            raise InputError(
                f'{path}: is of another search: {", ".join(changed)} changed ({key} was '
                f'{found.get(key)}, is {wanted.get(key)}). Leave out --resume to start anew.'
            )
    return evaluations


def read_candidates(source: str | os.PathLike[str]) -> list[Evaluation]:
    """Return what a search has evaluated, in the order in which it was proposed.

    Args:
        source: The work directory of a search, or its file.

    Raises:
        InputError: There is no search, or the file is none.
    """
    path = Path(source)
    return read_history(path / 'search_history.jsonl' if path.is_dir() else path)


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
