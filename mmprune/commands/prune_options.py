"""From any config and what a command line asks for to a config that can be pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmprune.building import options_of
from mmprune.commands.configured_input import SUPERNETS, shape_of_images
from mmprune.errors import InputError
from mmprune.pruners import ImportancePruner, StructurePruner
from mmprune.registry import PRUNERS
from mmprune.trace.demo_images import image_shape


@dataclass(frozen=True)
class PruneOptions:
    """What to prune to, and by what; a None leaves it to the config.

    Attributes:
        budget: Limits by name, as ``ImportancePruner`` takes them.
        ratio: Share of the channels to keep, or a file of shares.
        importance: Name of a criterion, such as ``'Taylor'``.
        scope: Which scores are compared, see ``ImportancePruner``.
        keep: Layers whose outputs stay, added to the config's ``except_start_keys``.
        input_shape: (N, C, H, W) or (C, H, W), for a config of a plain network; that of the
            first image of the config's test data if None.
        compensate: Whether the weights make up for what was removed, by least squares if the
            config names no other way.
    """

    budget: Mapping[str, float] | None = None
    ratio: float | str | None = None
    importance: str | None = None
    scope: str | None = None
    keep: Sequence[str] = ()
    input_shape: Sequence[int] | None = None
    compensate: bool = False

    @property
    def has_target(self) -> bool:
        """Whether they say how much goes."""
        return self.budget is not None or self.ratio is not None

    def own_words(self, text: str) -> str:
        """A message of the pruners, by the names that these options have on the command line."""
        for key in self.keep:
            text = text.replace(f'except_start_keys: {key!r}', f'--keep: {key!r}')
        return text


def prunable_config(cfg: Config, options: PruneOptions) -> Config:
    """The config with an AutoSlim around its model, and the pruner that the options ask for.

    Args:
        cfg: Of a plain network, or of an AutoSlim, whose pruner keeps what the options do not
            say.
        options: What the command line says.

    Raises:
        InputError: Nothing says what to prune to, or the config has no model.
    """
    if not cfg.get('model'):
        raise InputError(f'{cfg.filename}: there is nothing to prune: the config has no model')
    cfg = deepcopy(cfg)
    if cfg.model.get('type') in SUPERNETS:
        cfg.model.pruner = _pruner(cfg.model.pruner, options)
        if options.input_shape is not None:
            cfg.model.input_shape = image_shape(options.input_shape, '--input-shape')
        return cfg
    own = cfg.get('pruner') or {}
    plans = cfg.get('prune_cfg', {}).get('plans')
    if not (options.has_target or own.get('ratio') or own.get('budget') or plans):
        raise InputError(
            f'{cfg.filename}: its model is a plain network, so say what to prune it to: '
            '--budget macs=0.5, or --ratio 0.5'
        )
    return _wrapped(cfg, _pruner({'ratio': 1.0, **own} if plans else own, options), options)


def searchable_config(cfg: Config) -> Config:
    """The config with an AutoSlim around a plain network, whose widths are to be searched.

    Args:
        cfg: Of an AutoSlim, which stays as it is, or of any network. Its ``pruner`` says which
            widths there are and which channels they keep: every eighth, and those of the largest
            L1 norm, if it has none.
    """
    if not cfg.get('model') or cfg.model.get('type') in SUPERNETS:
        return cfg
    eighths = [eighth / 8 for eighth in range(1, 9)]
    pruner = cfg.get('pruner') or dict(type='RatioPruner', ratios=eighths, importance='L1')
    return _wrapped(deepcopy(cfg), dict(pruner), PruneOptions())


def _wrapped(cfg: Config, pruner: dict[str, Any], options: PruneOptions) -> Config:
    """A plain network's config, with an AutoSlim put around the network."""
    shape = options.input_shape or cfg.get('demo_input', {}).get('input_shape')
    cfg.model = dict(
        type='mmprune.AutoSlim',
        architecture=cfg.model,
        input_shape=image_shape(shape or shape_of_images(cfg), '--input-shape'),
        demo_input=cfg.pop('demo_input', None),
        pruner=pruner,
    )
    if not cfg.get('train_dataloader'):
        cfg.model.recalibration = dict(num_batches=0)
        print_log(
            f'{cfg.filename}: there is no train_dataloader, so the norm statistics stay those of '
            'the full network',
            logger='current',
        )
    return cfg


def _pruner(own: Mapping[str, Any], options: PruneOptions) -> dict[str, Any]:
    """A pruner's config with what the options say; another pruner's general options stay."""
    pruner = dict(own)
    kind = pruner.get('type')
    if options.has_target:
        found = PRUNERS.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(found, type) and issubclass(found, ImportancePruner)):
            general, _ = options_of(StructurePruner)
            pruner = {key: value for key, value in pruner.items() if key in general}
            pruner['type'] = 'ImportancePruner'
        pruner.pop('budget', None)
        pruner.pop('ratio', None)
    pruner.setdefault('type', 'ImportancePruner')
    given = dict(
        budget=None if options.budget is None else dict(options.budget),
        ratio=options.ratio,
        importance=options.importance,
        scope=options.scope,
    )
    pruner.update({key: value for key, value in given.items() if value is not None})
    if options.keep:
        pruner['except_start_keys'] = [*pruner.get('except_start_keys', ()), *options.keep]
    return pruner
