"""Images to trace on, from shapes that people write into configs and command lines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log

from mmprune.errors import InputError
from mmprune.trace.roads import DEMO_INPUTS_ARE, Road

DEFAULT_SHAPE = (1, 3, 224, 224)


def image_shape(shape: Any, option: str = 'input_shape') -> tuple[int, ...]:
    """A shape with a batch dim in front, from what a config or a command line gives.

    Args:
        shape: (N, C, H, W) or any other shape with a batch dim, or (C, H, W) for one sample; None
            for 1x3x224x224, which is said then, because costs are counted on it.
        option: What the message calls it.

    Raises:
        InputError: It is no shape.
    """
    if shape is None:
        size = 'x'.join(map(str, DEFAULT_SHAPE))
        print_log(
            f'{option} is left out: the network is traced, and its MACs are counted, on an image '
            f'of {size}',
            logger='current',
            level=logging.WARNING,
        )
        return DEFAULT_SHAPE
    sizes = tuple(shape) if _is_listed(shape) else ()
    if len(sizes) < 2 or not all(_is_size(size) for size in sizes):
        raise InputError(
            f'{option}={shape!r} is no shape: give (N, C, H, W), or (C, H, W) for one image, such '
            f'as {_example(shape)}'
        )
    return (1, *sizes) if len(sizes) == 3 else sizes


def check_demo_input(demo_input: Any) -> None:
    """Refuse what no network is called with, and a tuple of numbers, which would be arguments.

    Raises:
        InputError: ``demo_input`` is of another kind, or looks like a shape.
    """
    kinds = (torch.Tensor, tuple, list, Mapping, Road, type(None))
    if not isinstance(demo_input, kinds) and not callable(demo_input):
        raise InputError(
            f'demo_input: expected {DEMO_INPUTS_ARE}, found {type(demo_input).__name__}'
        )
    if _is_listed(demo_input) and len(demo_input) > 1 and all(map(_is_size, demo_input)):
        shape = ', '.join(map(str, demo_input))
        raise InputError(
            f'demo_input=({shape}) looks like a shape, but a tuple holds the arguments of the '
            f'forward: give an input, torch.rand({shape}). If the network does take whole numbers, '
            f'give a function: lambda network: network({shape})'
        )


def noise_image(shape: Sequence[int]) -> torch.Tensor:
    """Uniform noise from 0 to 1, the same at every call."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))


def _is_listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _example(shape: Any) -> str:
    if _is_size(shape):
        return f'(1, 3, {shape}, {shape})'
    return '(1, 3, 32, 32)'
