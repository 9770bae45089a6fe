"""The input that a config says, as roads through its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.models.demo_inputs.poses import codec_size
from mmprune.registry import DEMO_INPUTS, table
from mmprune.trace.demo_images import image_shape, noise_image
from mmprune.trace.roads import Road, packed_roads, packer_of


@dataclass(frozen=True)
class ConfiguredInput:
    """What ``demo_input=dict(type=..., input_shape=...)`` of a config stands for.

    Attributes:
        images: Noise, (N, C, H, W).
        packer: What makes the model's input of it, see ``mmprune.models.demo_inputs``; that of
            the model's class if None.
    """

    images: torch.Tensor
    packer: Any = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        settings: Mapping[str, Any] | None = None,
        input_shape: Sequence[int] | None = None,
        option: str = 'input_shape',
    ) -> ConfiguredInput:
        """Read the settings.

        Args:
            model: What is looked at; it may know the size of its images.
            settings: ``type``, a name in ``DEMO_INPUTS``, ``input_shape``, and what else that
                takes; all may be left out.
            input_shape: Goes before that of the settings.
            option: What messages call the shape.

        Raises:
            InputError: There is no such type, or the shape is none.
        """
        options = dict(settings or {})
        kind, own = options.pop('type', None), options.pop('input_shape', None)
        shape = input_shape or own
        size = None if shape else codec_size(model)
        images = noise_image((1, 3, *size) if size else image_shape(shape, option))
        if kind is None and not options:
            return cls(images)
        known = table(DEMO_INPUTS)
        if kind is None:
            packer = packer_of(model)
        else:
            packer = DEMO_INPUTS.get(kind) if isinstance(kind, str) else kind
        if packer is None:
            raise InputError(
                f'demo_input=dict(type={kind!r}, ...): there is no such type; known are '
                f'{", ".join(sorted(known))}; register yours in mmprune.extend.DEMO_INPUTS, and '
                'import it by custom_imports'
            )
        return cls(images, partial(packer, **options) if options else packer)

    def roads(self, model: nn.Module) -> list[Road]:
        """The roads through the model, in the type and on the device that it has."""
        like = next((p for p in model.parameters() if p.is_floating_point()), self.images)
        return list(packed_roads(model, self.images.to(like), self.packer))
