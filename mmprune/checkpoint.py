"""Reading checkpoints: without running code from them, and only if they fit.

mmengine 0.11 reads local checkpoints with ``weights_only=False``: it runs
whatever a file tells it to. mmengine 0.10.7 cannot read those that it has written
itself with torch 2.6 or later. What mmengine writes next to the weights is plain
data except for ``HistoryBuffer``, so a short list of allowed classes is enough
to read all of it safely.
"""

import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from mmprune.errors import InputError, MissingFileError, UnwritableError
from mmprune.fileio import atomic_path, no_file
from mmprune.weights import check_weights, unusable
from mmprune.wrappers import without_wrapper

# How many wrong layers an error message lists.
_LISTED = 5
# What torch raises of bytes that it did not write.
_BROKEN = (
    *(OSError, RuntimeError, EOFError, LookupError, ValueError, UnpicklingError, BadZipFile),
    *(AssertionError, AttributeError, TypeError, MemoryError),
)
_FOLDER = 0x10
_WRAPPED = re.compile(r'^((module|_orig_mod)\.)+')
_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_NUMPY_TYPES = ('bool', 'uint8', 'int32', 'int64', 'float16', 'float32', 'float64')


def read_checkpoint(
    path: str | os.PathLike[str], map_location: str | torch.device | None = 'cpu'
) -> dict[str, Any]:
    """Read a checkpoint that mmengine has written, or a bare state dict.

    Args:
        path: The file.
        map_location: As in :func:`torch.load`.

    Returns:
        What is in the file. The weights are under ``state_dict``, also if the
        file is a bare state dict; prefixes ``module.`` and ``_orig_mod.``, which distributed
        training, averages and compiled networks leave, are taken off their names.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is not a checkpoint, is cut off, or holds something
            other than weights and plain data.
    """
    problem = no_file(path)
    if problem:
        raise MissingFileError(f'{path}: the checkpoint {problem}.')
    file = Path(path).expanduser()
    torch.serialization.add_safe_globals(_allowed_globals())
    try:
        _check_sums(file)
        content = torch.load(file, map_location=map_location, weights_only=True)
    except _BROKEN as error:
        raise InputError(f'{path}: {_diagnose(file, error)}') from error
    if not is_zipfile(file):
        print_log(
            f'{file}: is in the format of torch before 1.6, which has no checksums: whether it was '
            'damaged cannot be seen. Read and saved again, it has some.',
            'current',
            logging.WARNING,
        )
    checkpoint = content if isinstance(content, Mapping) else {}
    weights = checkpoint.get('state_dict')
    if weights is None and checkpoint and all(isinstance(v, Tensor) for v in checkpoint.values()):
        checkpoint, weights = {}, checkpoint
    if not isinstance(weights, Mapping):
        raise InputError(
            f'{path}: holds no weights; a checkpoint is a dict with the key "state_dict", or a '
            f'state dict itself, but this is a {type(content).__name__}'
            + (f' with the keys {sorted(map(str, checkpoint))[:_LISTED]}.' if checkpoint else '.')
        )
    unnamed = [name for name in weights if not isinstance(name, str)]
    if unnamed:
        raise InputError(f'{path}: weights are named by text, and one of them by {unnamed[0]!r}.')
    state = {}
    for name, value in weights.items():
        own = _WRAPPED.sub('', name)
        if own in state:
            other = next(each for each in weights if _WRAPPED.sub('', each) == own)
            raise InputError(f'{path}: has both {other} and {name}: which of the two is meant?')
        state[own] = value
    return {**checkpoint, 'state_dict': state}


def write_checkpoint(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, all or nothing: the same bytes for the same content.

    It is read again before it gets its name.

    Raises:
        UnwritableError: The disk is full, or keeps something else; the file is as it was.
    """
    with atomic_path(path) as unfinished:
        try:
            with open(unfinished, 'wb') as file:
                torch.save(dict(content), file)
            read_checkpoint(unfinished)
        except (RuntimeError, InputError) as error:
            if isinstance(error.__context__, OSError):  # what torch met with, and does not say
                raise error.__context__ from None
            raise UnwritableError(f'{path}: cannot be written: {error}') from error


def check_fit(
    model: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    """Refuse weights that would leave a part of a model as it was initialised.

    Weights that the model has no place for are no error: a supernet's
    checkpoint may hold a distiller that a test does not build.

    Args:
        model: The model, plain or wrapped for distributed training.
        weights: A state dict.
        path: The file that the weights come from, for the message.

    Raises:
        InputError: Names the file and the first layers that are missing or
            have another shape, with both shapes, or are no dense tensors, or hold no numbers.
    """
    expected = without_wrapper(model).state_dict()
    problems = {
        key: _misfit(weights[key], tensor) if key in weights else 'missing in the file'
        for key, tensor in expected.items()
        if isinstance(tensor, Tensor)
    }
    wrong = [f'{key}: {problem}' for key, problem in problems.items() if problem]
    if not wrong:
        check_weights(without_wrapper(model), str(path), weights)
        return
    unknown = [key for key in weights if key not in expected]
    listed = '\n  '.join(wrong[:_LISTED])
    raise InputError(
        f'{path}: does not fit the model: {len(wrong)} of its {len(expected)} tensors are missing '
        f'or have another shape or kind, and {len(unknown)} of {len(weights)} in the file have no '
        f'place in it{f" (such as {unknown[0]})" if unknown else ""}.\n  {listed}'
        + (f'\n  ... and {len(wrong) - _LISTED} more' if len(wrong) > _LISTED else '')
        + '\nGive the config that the checkpoint was trained with.'
    )


def _misfit(value: Any, own: Tensor) -> str:
    """Why a value of a file cannot become a tensor of a model; empty if it can."""
    problem = unusable(value)
    if problem or value.shape == own.shape:
        return problem
    return f'shape {tuple(value.shape)} in the file, {tuple(own.shape)} in the model'


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint's weights into a model, all of them or none.

    Args:
        model: The model, plain or wrapped for distributed training.
        path: The checkpoint.

    Returns:
        The checkpoint, as :func:`read_checkpoint` returns it.

    Raises:
        InputError: As :func:`read_checkpoint` and :func:`check_fit` do; the
            model is as it was then.
    """
    checkpoint = read_checkpoint(path)
    fill(model, checkpoint['state_dict'], path)
    return checkpoint


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Load weights that were read into a model, all of them or none; see :func:`check_fit`."""
    check_fit(model, weights, path)
    without_wrapper(model).load_state_dict(weights, strict=False)


def make_mmengine_load_safely() -> None:
    """Have mmengine read checkpoints without running code from them, wherever they are.

    Local ones are read by :func:`read_checkpoint`; those that a URL or another scheme names are
    downloaded by mmengine, and only weights and plain data are taken from them.
    """
    torch.serialization.add_safe_globals(_allowed_globals())
    # All that trains comes with mmengine's runner; who only prunes has no need of it.
    from mmengine.runner import CheckpointLoader

    # mmengine logs the name of the loader without its first ten letters.
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    for prefix, loader in CheckpointLoader._schemes.items():
        CheckpointLoader._schemes[prefix] = _weights_only(getattr(loader, '__wrapped__', loader))


def _weights_only(loader: Callable[..., Any]) -> Callable[..., Any]:
    """One of mmengine's loaders, while torch is told to unpickle nothing but weights."""

    @wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        before = os.environ.get(_FORCE)
        os.environ[_FORCE] = '1'
        try:
            return _without_code(loader(filename, *args, **kwargs))
        except UnpicklingError as error:
            raise InputError(f'{filename}: {_refusal(error)}') from error
        finally:
            os.environ.pop(_FORCE)
            if before is not None:
                os.environ[_FORCE] = before

    return load


def load_from_local(filename: str, map_location: str | torch.device | None) -> dict[str, Any]:
    """Read a checkpoint, in the form in which mmengine registers loaders."""
    return _without_code(read_checkpoint(filename, map_location))


def _without_code(checkpoint: Any) -> Any:
    """A checkpoint without the config that mmengine would run when a training goes on from it."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint


def _statistics_method(owner: object, name: str) -> Callable[..., Any]:
    """Stand in for ``getattr``, which a pickled HistoryBuffer calls for its own methods."""
    method = HistoryBuffer.__dict__.get(name)
    if owner is not HistoryBuffer or not callable(method):
        raise UnpicklingError(f'a checkpoint may not look up {name!r} of {owner!r}')
    return method


# torch knows what is allowed by these names (the last one since torch 2.5).
_statistics_method.__module__ = 'builtins'
_statistics_method.__name__ = _statistics_method.__qualname__ = 'getattr'


def _allowed_globals() -> list[Any]:
    """List what an mmengine checkpoint may hold beyond tensors and containers."""
    # Where these live in numpy is a matter of its version; a pickled object knows.
    reconstruct, scalar = (value.__reduce__()[0] for value in (np.empty(0), np.float64(0)))
    dtypes = [type(np.dtype(name)) for name in _NUMPY_TYPES]
    return [HistoryBuffer, _statistics_method, reconstruct, scalar, np.ndarray, np.dtype, *dtypes]


def _check_sums(file: Path) -> None:
    """Compare what an archive holds with its own checksums, which torch does not look at."""
    if not is_zipfile(file):
        return
    with ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > file.stat().st_size:
            raise BadZipFile('holds more than its size, and torch packs nothing')
        try:
            # torch reads nothing of an entry with the mark of a folder, and says nothing.
            folders = [i.filename for i in archive.infolist() if i.external_attr & _FOLDER]
            damaged = folders[0] if folders else archive.testzip()
        except (zlib.error, struct.error) as error:
            raise BadZipFile(str(error)) from error
    if damaged is not None:
        raise BadZipFile(f'damaged: {damaged} is not what was written')


def _diagnose(file: Path, error: Exception) -> str:
    """Say why torch could not read a file, and what to do, in one sentence each."""
    if isinstance(error, PermissionError):
        return 'you may not read this file.'
    if file.suffix == '.safetensors':
        return (
            'safetensors are not read. Write a checkpoint of them: '
            'torch.save(safetensors.torch.load_file(...), file).'
        )
    if not isinstance(error, BadZipFile) and not is_zipfile(file):
        return (
            f'not a checkpoint, or cut off: its {file.stat().st_size} bytes are no complete '
            'archive. Give a file that mmengine or torch.save has written, or write it anew.'
        )
    return _refusal(error)


def _refusal(error: Exception) -> str:
    """What is in a file beside weights, or why it cannot be read at all."""
    # torch goes on to explain how the check can be turned off; what it refused is enough.
    refused = re.search(r'GLOBAL ([\w.]+)', str(error))
    if refused is None:
        reason = re.search(r'WeightsUnpickler error:\s+(.+)', str(error))
        text = reason.group(1) if reason else str(error).partition('. ')[0]
        return f'cannot be read ({text}). Write it anew.'
    return (
        f'holds more than weights and plain data ({refused.group(1)}), and mmprune runs no code '
        "from a checkpoint. Save the weights alone: torch.save({'state_dict': model.state_dict()}, "
        'file).'
    )
