"""Running a network by torch, by torch.compile and by onnxruntime, to see how long each takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from mmprune.deploy.onnx_export import export_onnx, missing_packages
from mmprune.errors import InputError
from mmprune.latency.timing import Times, interleaved

BACKENDS = ('torch', 'compile', 'onnxruntime')
COMPILERS = ('g++', 'clang++', 'cl')


class UnavailableError(InputError):
    """A backend that cannot be used on this machine."""


def check_backend(backend: str, device: torch.device | str = 'cpu') -> None:
    """Refuse a backend that cannot run here.

    Raises:
        UnavailableError: Something that it needs is not there.
        InputError: There is no such backend.
    """
    if backend not in BACKENDS:
        raise InputError(f'backends are {", ".join(BACKENDS)}, not {backend!r}')
    on_cpu = torch.device(device).type == 'cpu'
    compilers = [os.environ['CXX']] if os.environ.get('CXX') else list(COMPILERS)
    if backend == 'compile' and on_cpu and not any(map(shutil.which, compilers)):
        raise UnavailableError(
            f'torch.compile needs a C++ compiler for the CPU, and there is none of '
            f'{", ".join(compilers)}: install one (Debian: apt install g++), or name it in CXX'
        )
    missing = missing_packages()
    if backend == 'onnxruntime' and missing:
        raise UnavailableError(
            f'onnxruntime: {", ".join(missing)} missing; pip install "mmprune[onnx]"'
        )
    if backend == 'onnxruntime' and not on_cpu:
        raise UnavailableError('onnxruntime is measured on the CPU only')


def measure_networks(
    networks: Mapping[str, nn.Module], data: torch.Tensor, backend: str, seconds: float
) -> dict[str, Times]:
    """Times of networks that take turns, all by one backend.

    Args:
        networks: Plain networks by name, in eval mode, on the device of ``data``.
        data: The input.
        backend: One of ``BACKENDS``.
        seconds: How long to measure, making ready left out.

    Raises:
        UnavailableError: The backend cannot run here, or not these networks.
    """
    check_backend(backend, data.device)
    calls: dict[str, Callable[[], Any]] = {}
    with TemporaryDirectory() as folder, torch.no_grad():
        for name, network in networks.items():
            try:
                calls[name] = _call(network, data, backend, Path(folder) / f'{len(calls)}.onnx')
                calls[name]()
            except Exception as error:  # a compiler or exporter may fail in many ways
                if backend == 'torch':
                    raise
                reason = next(iter(str(error).splitlines()), '')
                raise UnavailableError(
                    f'{name} does not run by {backend}: {type(error).__name__}: {reason}'
                ) from error
        return interleaved(calls, seconds, data.device)


def _call(network: nn.Module, data: torch.Tensor, backend: str, file: Path) -> Callable[[], Any]:
    """One pass of a network, made ready for a backend that may need a file."""
    if backend == 'torch':
        return partial(network, data)
    if backend == 'compile':
        return partial(torch.compile(network, dynamic=False), data)
    import onnxruntime  # optional, and slow to import

    export_onnx(network, data, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    return partial(session.run, None, {'input': data.numpy()})
