"""What is measured, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

SECTIONS = ('execution', 'peers', 'tracing', 'job', 'cost', 'latency', 'search')
QUICK_MODELS = ('resnet18', 'mobilenet_v2_1x')


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and where the results go.

    Attributes:
        sections: Some of ``SECTIONS``.
        quick: Small networks on small images, for a minute: to see that everything runs.
        models: Networks whose preparation is measured; the default list if there are none.
        networks: Networks whose execution is measured.
        size: Height and width of the images.
        seconds: How long each set of passes takes turns.
        kept: Which channels the subnets keep: ``'any'`` or the ``'first'``.
        device: Where to measure.
        threads: CPU threads of torch.
        json: File for all numbers.
        markdown: File for the tables.
        docs: Page to put the tables into; None for none.
        batches: Batch sizes; the last is the one that switching and deploying are held against.
        memory_models: Networks whose memory is measured, in processes of their own.
        blocks: Depths of the residual networks of which the times are compared.
    """

    sections: Sequence[str] = SECTIONS
    quick: bool = False
    models: Sequence[str] = ()
    networks: Sequence[str] = ('resnet50', 'mobilenet_v2_1x')
    size: int = 224
    seconds: float = 9.0
    kept: str = 'any'
    device: str = 'cpu'
    threads: int = 2
    json: str | os.PathLike[str] = 'work_dirs/bench/bench.json'
    markdown: str | os.PathLike[str] = 'work_dirs/bench/bench.md'
    docs: str | os.PathLike[str] | None = None
    batches: tuple[int, ...] = (1, 8)
    memory_models: tuple[str, ...] = ('resnet50', 'vit-base-p16')
    blocks: tuple[int, int] = (100, 800)

    def small(self) -> BenchOptions:
        """The same on small networks and images."""
        return replace(
            self,
            models=self.models or QUICK_MODELS,
            networks=QUICK_MODELS[:1],
            size=64,
            seconds=0.5,
            batches=(1, 2),
            memory_models=QUICK_MODELS[:1],
            blocks=(10, 80),
        )
