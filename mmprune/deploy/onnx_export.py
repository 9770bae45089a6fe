"""ONNX files of deployed networks, checked by running them."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmprune.errors import InputError
from mmprune.trace.calls import tensors_in
from mmprune.trace.roads import OnRoad, Road, as_road

# Two float32 programs that sum in different orders agree about as well as this.
_TOLERANCE = 1e-4

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def missing_packages() -> list[str]:
    """What of ``PACKAGES`` is not installed."""
    return [name for name in PACKAGES if not importlib.util.find_spec(name)]


def check_onnx() -> None:
    """Refuse to begin what ends in an ONNX file where none can be written.

    Raises:
        InputError: One of ``PACKAGES`` is not installed.
    """
    missing = missing_packages()
    if missing:
        raise InputError(
            f'Writing ONNX needs {", ".join(missing)}: pip install "mmprune[onnx]", or leave out '
            '--onnx.'
        )


def export_onnx(
    network: nn.Module,
    example: Tensor | Road,
    path: str | os.PathLike[str],
    batch: int | None = None,
) -> float:
    """Write a network as ONNX, and compare what onnxruntime computes with torch.

    Args:
        network: A plain network in eval mode, on the CPU.
        example: An input, shape (N, C, H, W), or a road on one. Where the road makes more of it
            than images, the file takes these alone, and batches of two if it cannot take any.
        path: The file to write.
        batch: The N that the file takes, which some runtimes and accelerators want to know; any
            if None.

    Returns:
        The largest difference between the outputs, relative to the largest output.

    Raises:
        InputError: If onnx, onnxscript or onnxruntime is not installed, or the
            outputs differ by more than 1e-4; or ``batch`` is no number of images.
    """
    if batch is not None and batch < 1:
        raise InputError(f'an ONNX file for batches of {batch} images cannot be written')
    check_onnx()
    road = as_road(example)
    network, images = OnRoad.of(network, road), road.images
    # With one sample the exporter would take the batch size for a constant.
    inputs = torch.cat([images, images.flip(-1)])
    if batch is not None:
        inputs = torch.cat([inputs] * (-(-batch // len(inputs))))[:batch]
    try:
        _write(network, inputs, path, any_batch=batch is None)
    except Exception:  # of many kinds, where data samples are made one by one
        if batch is not None or not isinstance(network, OnRoad):
            raise
        _write(network, inputs, path, any_batch=False)
    with torch.no_grad():
        expected = [output.numpy() for output in tensors_in(network(inputs))]
    error = _relative_error(expected, _run(path, inputs))
    if error > _TOLERANCE:
        raise InputError(
            f'The ONNX file computes something else than torch: the relative error is {error:.1e}, '
            f'and {_TOLERANCE:.0e} is allowed. Nothing was written; leave out --onnx.'
        )
    return error


def _write(
    network: nn.Module, inputs: Tensor, path: str | os.PathLike[str], any_batch: bool
) -> None:
    with _quiet_exporter():
        torch.onnx.export(
            network,
            (inputs,),
            str(path),
            input_names=['input'],
            dynamic_shapes=({0: torch.export.Dim('batch')},) if any_batch else None,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says about itself: operators of torchvision, its own deprecations."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', category=FutureWarning, module='copyreg')
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _run(path: str | os.PathLike[str], inputs: Tensor) -> list[Any]:
    import onnxruntime  # optional, and slow to import

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return list(session.run(None, {'input': inputs.numpy()}))


def _relative_error(expected: list[Any], found: list[Any]) -> float:
    scale = max(float(np.abs(value).max()) for value in expected)
    pairs = zip(expected, found, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs) / max(scale, 1e-12)
