"""What a search has evaluated, as data, and as a file of one JSON object per line.

Searches wrote such files before they had studies; they can be imported, and what a storage does not
take is put into one. First are the settings, then the evaluations in order. The half line that a
power cut may have left at the end is dropped when the file is read.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmprune.config import changes, plain
from mmprune.datafiles import parse_json, read_text
from mmprune.errors import InputError
from mmprune.execution import MASK_NAMES
from mmprune.fileio import write_text
from mmprune.schema import Amount, Count, Metric, Whole, checked
from mmprune.weights import digest_of_weights

FORMAT = 'mmprune search history 1'
# How many changed settings a message lists.
_LISTED = 5


@dataclass(frozen=True)
class Evaluation:
    """One candidate of a search.

    Attributes:
        index: Its number in the study, from 0; what was given back leaves gaps.
        origin: Where it came from, in words.
        key: Digest of its kept channels.
        macs: Multiply-adds on the demo input.
        params: Number of parameters.
        metric: The value that the search compares; None if the evaluator did not give it.
        channels: Kept channels of every group.
        latency: Predicted milliseconds, if the search has a table.
        metrics: All values that the evaluator gave.
        budget: The budget for which it was proposed, where a search has several.
        asked: Which proposal of the first worker's sampler it was; None of other workers'.
        noted: What a sampler of Optuna wants to know of its proposal.
        worker: Who evaluated it: a host, a number of a process, and when it began.
    """

    index: Whole
    origin: str
    key: str
    macs: Whole
    params: Whole
    metric: Metric | None
    channels: dict[str, Count]
    latency: Amount | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    budget: str | None = None
    asked: Whole | None = None
    noted: dict[str, Any] = field(default_factory=dict)
    worker: str = ''

    @property
    def cost(self) -> dict[str, float]:
        """What it costs; an infinite latency if none was predicted."""
        latency = math.inf if self.latency is None else self.latency
        return {'macs': self.macs, 'params': self.params, 'latency': latency}


@dataclass(frozen=True)
class _Header:
    """The first line of a history file."""

    format: Literal['mmprune search history 1']
    settings: dict[str, Any] | None


def read_history(path: Path, settings: dict[str, Any] | None = None) -> list[Evaluation]:
    """Return the evaluations in a history file.

    Args:
        path: The file.
        settings: What the evaluations must have been made with; None takes any.

    Raises:
        InputError: If the file is missing, no history, broken elsewhere than in its
            last line, or of a search with other settings.
    """
    # What follows the last line break is a line that was never finished.
    lines = read_text(path, 'the history of a search').split('\n')[:-1]
    try:
        first, *rest = [parse_json(line) for line in lines]
        header = checked(_Header, first, 'line 1')
        evaluations = [checked(Evaluation, line, f'line {n}') for n, line in enumerate(rest, 2)]
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path}: not the history of a search ({error}).') from error
    if settings is not None and header.settings is not None:
        check_settings(str(path), settings, header.settings)
    return evaluations


def write_history(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write evaluations into a file, whatever settings they were made with."""
    lines = [{'format': FORMAT, 'settings': None}, *map(asdict, evaluations)]
    write_text(''.join(json.dumps(line) + '\n' for line in lines), path)


def check_settings(of: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse what was evaluated with other settings.

    Args:
        of: What it is, for the message.
        wanted: The settings of the search that is to go on from it.
        found: Its own.

    Raises:
        InputError: They differ.
    """
    changed = changes(found, wanted)
    if changed:
        key, more = next(iter(changed)), ', ...' if len(changed) > _LISTED else ''
        raise InputError(
            f'{of}: is of another search: {", ".join([*changed][:_LISTED])}{more} changed ({key} '
            f'{changed[key]}). Start anew: without --resume, or with another --study.'
        )


def subnet_key(subnet: Mapping[str, Tensor]) -> str:
    """Return a digest of the kept channels of every group."""
    digest = hashlib.sha256()
    for space_id in sorted(subnet):
        digest.update(space_id.encode())
        digest.update((subnet[space_id].flatten() != 0).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_key(state: Mapping[str, Tensor]) -> str:
    """Return a digest of a state dict's values, leaving out the masks."""
    return digest_of_weights({n: v for n, v in state.items() if not n.endswith(MASK_NAMES)})


def configs_of(cfg: Mapping[str, Any], dataloader: Any, evaluator: Any) -> dict[str, Any]:
    """What a candidate's values come from, as plain data: network, images, preprocessing, metrics.

    Args:
        cfg: The whole config.
        dataloader: The loader that candidates are evaluated on, or its config.
        evaluator: The metrics, or their config.
    """

    def images_of(loader: Any) -> dict[str, Any]:
        given = loader if isinstance(loader, Mapping) else {'dataset': loader}
        return {key: plain(given.get(key)) for key in ('dataset', 'collate_fn')}

    train = cfg.get('train_dataloader') or {}
    return {
        **{key: plain(cfg.get(key)) for key in ('model', 'data_preprocessor')},
        'images': images_of(dataloader),
        'evaluator': plain(evaluator),
        'training_images': {**images_of(train), 'batch_size': train.get('batch_size')},
    }
