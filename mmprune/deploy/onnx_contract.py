"""What an ONNX file wants to be given and gives, written into it."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from mmprune.trace.calls import tensors_in
from mmprune.trace.roads import Road, as_road
from mmprune.version import __version__

_PROBABILITY_SLACK = 1e-4


@torch.no_grad()
def describe_onnx(
    path: str | os.PathLike[str], network: nn.Module, example: Tensor | Road
) -> dict[str, str]:
    """Write into an ONNX file's metadata what it expects and returns; return that.

    Args:
        path: The file, which gets the keys ``mmprune_version``, ``input`` and ``output``.
        network: What it was made from, in eval mode.
        example: An input of the shape that it was made with, or the road that it was made on.
    """
    import onnx  # optional, and slow to import

    road = as_road(example)
    outputs = [value for value in tensors_in(road.run(network)) if isinstance(value, Tensor)]
    contract = {'input': _input(network, road.images), 'output': _output(outputs)}
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {'mmprune_version': __version__, **contract})
    onnx.save(model, str(path))
    return contract


def _input(network: nn.Module, example: Tensor) -> str:
    """Shape, type and normalisation, which the data preprocessor does outside of the file."""
    shape = ' x '.join(['N', *map(str, example.shape[1:])])
    text = f'{str(example.dtype)[6:]}, {shape}'
    preprocessor = getattr(network, 'data_preprocessor', None)
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is not None and std is not None:
        text += (
            f', normalised by you: (pixel - mean) / std with mean {_listed(mean)} and std '
            f'{_listed(std)}, pixels from 0 to 255'
        )
    else:
        text += ', as the network takes it: its config has no normalisation'
    if example.shape[1] == 3 and preprocessor is not None:
        to_rgb = getattr(preprocessor, 'to_rgb', getattr(preprocessor, 'channel_conversion', None))
        to_rgb = getattr(preprocessor, '_channel_conversion', to_rgb)
        text += (
            ', channels in the order RGB if the pipeline loads BGR, as mmcv does'
            if to_rgb
            else ', channels in the order in which the pipeline loads them (BGR by mmcv)'
        )
    return text


def _output(outputs: list[Tensor]) -> str:
    shapes = ' and '.join(' x '.join(['N', *map(str, each.shape[1:])]) for each in outputs)
    if len(outputs) == 1 and outputs[0].ndim == 2:
        (scores,) = outputs
        sums = scores.sum(1)
        if bool((scores >= 0).all()) and bool(((sums - 1).abs() < _PROBABILITY_SLACK).all()):
            return f'{shapes}, probabilities: every row adds up to 1'
        return f'{shapes}, raw scores: logits of a classifier, softmax not applied'
    return f"{shapes}, as forward(mode='tensor') gives it: nothing is decoded or postprocessed"


def _listed(value: Any) -> str:
    numbers = torch.as_tensor(value).flatten().tolist()
    return f'[{", ".join(f"{number:g}" for number in numbers)}]'
