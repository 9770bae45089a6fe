"""What a stack is tried with: one call on a plain network, then the tools from end to end.

Run by the interpreter of the stack. Prints one JSON object: the versions that were found and what
each step measured; ends with a traceback if a step fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = {
    'torch': ('torch',),
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'model zoo': ('mmcls', 'mmpretrain', 'onedl-mmpretrain'),
}
HEAVY = ('mmcls', 'mmpretrain', 'mmdet', 'mmcv', 'cv2', 'sklearn', 'matplotlib', 'mmengine.runner')
"""What a plain network needs none of, so that it must not be imported for one."""


def main(scope: str) -> None:
    """Try the stack that runs this; ``scope`` is its package of OpenMMLab, or empty."""
    found: dict[str, Any] = {'versions': versions()}
    found['seconds to import'] = round(seconds_to_import(), 2)
    name_operators_of_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        found['one call'] = one_call(Path(folder))
        found['tools'] = tools(HERE / 'plain_config.py', Path(folder) / 'plain', {})
        if scope:
            pack = 'PackClsInputs' if scope == 'mmcls' else 'PackInputs'
            options = {'default_scope': scope}
            for part in ('train', 'val', 'test'):
                options[f'{part}_dataloader.dataset.pipeline'] = [{'type': pack}]
            config = HERE / 'scope_config.py'
            found[f'tools on a classifier of {scope}'] = tools(
                config, Path(folder) / scope, options
            )
    print(json.dumps(found))


def versions() -> dict[str, str]:
    """What is installed, under the name of the distribution."""
    found = {}
    for what, names in PACKAGES.items():
        for name in names:
            try:
                found[what] = f'{name} {version(name)}'
                break
            except PackageNotFoundError:
                continue
    return found


def seconds_to_import() -> float:
    """How long mmprune takes on top of torch, with all that a plain network needs."""
    import torch  # noqa: F401

    start = time.perf_counter()
    import mmprune

    network, demo = plain_network()
    mmprune.prune(network, demo, ratio=0.5)
    taken = time.perf_counter() - start
    heavy = [name for name in HEAVY if name in sys.modules]
    assert not heavy, f'a plain network imports {heavy}'
    return taken


def plain_network() -> tuple[Any, Any]:
    """A network that no package of OpenMMLab knows, and what it is traced on."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.GroupNorm(8, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).double()
    return network, torch.rand(2, 3, 16, 16).double()


def one_call(folder: Path) -> str:
    """Prune, save and load a plain network; its numbers stay."""
    import torch

    import mmprune

    network, demo = plain_network()
    result = mmprune.prune(network, demo, macs=0.5)
    mmprune.save(result, folder / 'small.pt')
    loaded = mmprune.load(folder / 'small.pt', plain_network()[0])
    assert torch.equal(result.network(demo), loaded(demo))
    return f'{result.after["macs"]:,} of {result.before["macs"]:,} MACs'


def tools(config: Path, folder: Path, options: dict[str, Any]) -> dict[str, str]:
    """Train, search two candidates, deploy, verify and test."""
    from mmprune.commands.deploy_subnet import deploy_subnet
    from mmprune.commands.run import evaluate, train
    from mmprune.commands.search_subnet import search_subnet
    from mmprune.search import read_candidates

    folder.mkdir()
    done = {}
    train(config, folder / 'train', cfg_options=options)
    checkpoint = folder / 'train' / 'epoch_1.pth'
    done['prepare and train'] = f'{checkpoint.stat().st_size} bytes'
    (result,) = search_subnet(config, checkpoint, folder / 'search', cfg_options=options)
    candidates = read_candidates(folder / 'search')
    done['search'] = f'{result.macs} MACs, {len(candidates)} candidates'
    files = deploy_subnet(config, checkpoint, result.channel_cfg, folder, cfg_options=options)
    assert files.verified.ok
    done['deploy and verify'] = f'error {files.verified.max_rel_err:.0e}'
    metrics = evaluate(files.config, files.checkpoint, folder / 'test')
    done['test'] = ', '.join(f'{name} {value:.1f}' for name, value in metrics.items())
    train(
        config, folder / 'train', resume='auto', cfg_options={**options, 'train_cfg.max_epochs': 2}
    )
    done['resume'] = 'epoch 2'
    return done


def name_operators_of_torchvision() -> None:
    """Let a torchvision that was built for another torch be imported; nothing here runs it.

    mmpretrain imports it without saying so.
    """
    import torch

    if find_spec('torchvision') is None:
        return
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        global _LIBRARY
        _LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
        for name in ('nms', 'qnms'):
            _LIBRARY.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import torchvision  # noqa: F401


_LIBRARY: Any = None
"""Operators are there for as long as the object that has defined them."""

if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else '')
