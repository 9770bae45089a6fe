"""From a prepared network to its picture."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torch import nn

from mmprune.fileio import write_text
from mmprune.report.drawing import Picture, Share, draw, rows_of
from mmprune.report.findings import Findings, find
from mmprune.report.report import percent
from mmprune.supernet.supernet import Supernet


def draw_groups(
    supernet: Supernet,
    path: str | os.PathLike[str],
    title: str | None = None,
    findings: Findings | None = None,
) -> None:
    """Write the channel groups of a prepared network as an SVG file.

    Args:
        supernet: The prepared network.
        path: The file to write.
        title: Of the picture; the network's class if None.
        findings: What is known about it already, to save the time of finding it again.
    """
    findings = findings or find(supernet)
    text = draw(picture_of(supernet, findings, title or findings.model))
    write_text(text, path)


def picture_of(supernet: Supernet, findings: Findings, title: str) -> Picture:
    """What the picture of a prepared network shows."""
    channels = {name: (layer.inputs, layer.outputs) for name, layer in supernet.layers.items()}
    return Picture(
        title=title,
        facts=tuple(_facts(findings)),
        alarms=tuple(_alarms(findings)),
        shares=tuple(_shares(findings)),
        rows=rows_of(
            supernet.graph,
            supernet.labelling,
            findings.groups,
            channels,
            kinds_of(supernet.model),
        ),
        groups=findings.groups,
    )


def _facts(findings: Findings) -> Iterable[str]:
    pinned = len(findings.groups) - findings.prunable_groups
    yield (
        f'{len(findings.groups)} channel groups: {findings.prunable_groups} prunable, '
        f'{pinned} pinned'
    )
    yield (
        f'{findings.model}; nodes: {findings.nodes}, layers: {findings.layers}, '
        f'calls of modules: {findings.calls}'
    )


def _alarms(findings: Findings) -> Iterable[str]:
    for unknown in findings.unknown:
        places = ', '.join(map(str, unknown.places))
        yield f'operation without {unknown.lacks}: {unknown.operation} in {places}'
    for why, names in findings.unreached.items():
        yield f'{len(names)} parameters not reached ({names[0]} first): {why}'


def _shares(findings: Findings) -> Iterable[Share]:
    full, half = findings.full, findings.half
    for name, share, number, halved in (
        ('parameters', findings.prunable_params, full.params, half.params),
        ('MACs', findings.prunable_macs, full.macs, half.macs),
    ):
        kept = halved / max(number, 1)
        text = f'{percent(share)} of {number:,} prunable; half of every group keeps {kept:.1%}'
        yield Share(name, share, text)


def kinds_of(model: nn.Module) -> dict[str, str]:
    """What every module is, in a few words: its class, and how a convolution is set."""
    return {name: _kind(module) for name, module in model.named_modules()}


def _kind(module: nn.Module) -> str:
    words = [type(module).__name__]
    kernel, stride = getattr(module, 'kernel_size', None), getattr(module, 'stride', 1)
    if isinstance(kernel, tuple) and all(isinstance(size, int) for size in kernel):
        words.append('x'.join(map(str, kernel)))
        if isinstance(stride, tuple) and max(stride) > 1:
            words.append('/' + 'x'.join(map(str, sorted(set(stride)))))
    groups = getattr(module, 'groups', 1)
    if isinstance(groups, int) and groups > 1:
        words.append('depthwise' if groups == getattr(module, 'in_channels', 0) else f'g{groups}')
    return ' '.join(words)
