"""One network from one seed: everything that is trained, pruned and measured of it, row by row."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.bench.accuracy import ours, supernets
from mmprune.bench.accuracy.criteria import BESIDE, CRITERIA, SCOPES, Criterion
from mmprune.bench.accuracy.data import DATA
from mmprune.bench.accuracy.networks import NETWORKS, build, count_macs, count_params
from mmprune.bench.accuracy.ours import Cut
from mmprune.bench.accuracy.peer import Peer
from mmprune.bench.accuracy.peer import slimmed as slimmed_by_peer
from mmprune.bench.accuracy.training import (
    accuracy,
    batches,
    num_steps,
    pixels,
    train,
)
from mmprune.compensation import compensate
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.models import recalibrate_norm_statistics

FORMAT = 'mmprune accuracy 1'
OURS, THEIRS = 'mmprune', 'Torch-Pruning'
SLIMMING, AUTOSLIM, UNPRUNED = 'network slimming', 'AutoSlim', 'unpruned'
METHODS = (*(criterion.name for criterion in CRITERIA), SLIMMING, AUTOSLIM)
SEEN_BATCHES = 8
TOO_LARGE = 1.05
SLIMMING_PENALTY = dict(weight=2e-2, decay=0, shift_factor=0, plot=False)
"""As in the paper, and in Torch-Pruning; the strength was chosen on a seed of its own."""


MEASURES = {
    'pruned': 'right after',
    'recalibrated': 'norms recalibrated',
    'compensated': 'compensated',
    'finetuned': 'finetuned',
    'taught': 'finetuned with a teacher',
}
"""Accuracies, and what tables call them."""
OF_DIGITS = ('pruned', 'recalibrated', 'finetuned')


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on.

    Attributes:
        epochs: Of training before pruning: of the plain network, of the one with a penalty on
            its scales, of the supernet.
        finetune: Epochs of finetuning.
        lr: The highest learning rate before pruning.
        finetune_lr: The highest one of finetuning.
        width: Channels of the networks' first stages.
        targets: Shares of the multiply-adds, descending.
        images: How many images of each part of the data are used; None for all.
        optimizer: ``'SGD'`` or ``'AdamW'``.
        measures: Which accuracies, some of ``MEASURES``.
        with_peer: Whether Torch-Pruning is there to be compared with.
    """

    epochs: float = 15
    finetune: float = 2
    lr: float = 0.1
    finetune_lr: float = 0.02
    width: int = 16
    targets: tuple[float, ...] = (0.5, 0.25)
    images: int | None = None
    optimizer: str = 'SGD'
    measures: tuple[str, ...] = OF_DIGITS
    with_peer: bool = True

    def of(self, program: str) -> tuple[str, ...]:
        """The accuracies that are measured of a program's networks; nobody compensates others'."""
        return OF_DIGITS if program == THEIRS else self.measures


@dataclass(frozen=True)
class Key:
    """Which row it is.

    Attributes:
        method: A criterion's name, ``SLIMMING``, ``AUTOSLIM`` or ``UNPRUNED``.
        scope: Which scores are compared; empty where that is no question.
        target: Share of the multiply-adds.
        program: ``OURS`` or ``THEIRS``.
    """

    method: str
    scope: str
    target: float
    program: str


class Unit:
    """The rows of one network and seed, and the file that they are in.

    Args:
        settings: What all units share.
        name: A name of ``NETWORKS``.
        seed: Of the weights, the order of the images, and all else.
        folder: For the file of the rows and for trained weights, so that a run can go on.

    Raises:
        InputError: The file is none of these settings.
    """

    def __init__(self, settings: Settings, name: str, seed: int, folder: Path) -> None:
        self.settings, self.name, self.seed, self.folder = settings, name, seed, folder
        self.path = folder / f'{name}-seed{seed}.json'
        wanted = json.loads(json.dumps(asdict(settings)))
        self.content: dict[str, Any] = {
            'format': FORMAT, 'settings': wanted, 'network': name, 'seed': seed, 'rows': [],
        }  # fmt: skip
        if self.path.is_file():
            self.content = read(self.path)
            if self.content['settings'] != wanted:
                raise InputError(
                    f'{self.path}: these rows were measured with {self.content["settings"]}, not '
                    f'{wanted}: remove {folder}, or give another --work-dir'
                )
        images = DATA[NETWORKS[name].data].images
        self.train_images = images('train').first(settings.images)
        self.test_images = images('test').first(settings.images)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far."""
        return self.content['rows']

    def run(
        self,
        methods: Sequence[str] = METHODS,
        scopes: Sequence[str] = SCOPES,
        is_wanted: Callable[[], bool] = lambda: True,
        measures: Sequence[str] = tuple(MEASURES),
    ) -> None:
        """Measure what is missing, and write the file after each row.

        Args:
            methods: Some of ``METHODS``.
            scopes: Some of ``SCOPES``, of criteria.
            is_wanted: Whether to go on; asked before every row.
            measures: Some of ``MEASURES``; others can be added to the same rows later.
        """
        rows = {key_of(row): row for row in self.rows}
        for key in keys(self.settings, methods, scopes, self.name):
            row = rows.get(key, {})
            missing = [m for m in self.settings.of(key.program) if m in measures and m not in row]
            if not missing:
                continue
            if not is_wanted():
                return
            start = time.monotonic()
            found = self.measured(self.network_of(key), missing)
            if not row:
                row.update(asdict(key), seconds=0.0)
                self.rows.append(row)
            seconds = round(row['seconds'] + time.monotonic() - start, 2)
            row.update(found, seconds=seconds)
            with atomic_path(self.path) as unfinished:
                unfinished.write_text(json.dumps(self.content, indent=1) + '\n', encoding='utf-8')

    # -- rows --------------------------------------------------------------------------

    def network_of(self, key: Key) -> Cut:
        """The network of a row, not finetuned."""
        if key.method == UNPRUNED:
            return Cut(self.plain)
        if key.method == AUTOSLIM:
            return Cut(self.found[self.settings.targets.index(key.target)])
        if key.method == SLIMMING:
            return Cut(self._slimmed(key))
        (criterion,) = (c for c in CRITERIA if c.name == key.method)
        return self._by_criterion(key, criterion)

    def _by_criterion(self, key: Key, criterion: Criterion) -> Cut:
        if key.program == THEIRS:
            return Cut(self.peer.pruned(criterion, key.scope, key.target * self.full_macs))
        config = dict(criterion.ours)
        if config['type'] == 'RandomImportance':
            config['seed'] = self.seed
        return ours.pruned(self.plain, config, key.scope, self._budget(key), self.seen)

    def _slimmed(self, key: Key) -> nn.Module:
        if key.program == THEIRS:
            return slimmed_by_peer(self.with_penalty, key.target * self.full_macs)
        return ours.slimmed(self.with_penalty, self._budget(key))

    def _budget(self, key: Key) -> float:
        """Multiply-adds that mmprune may use: those of Torch-Pruning's network, if there is one.

        One that could not be cut down to the target is no measure.
        """
        target = key.target * self.full_macs
        beside = replace(key, method=BESIDE.get(key.method, key.method), program=THEIRS)
        for row in self.rows:
            if key_of(row) == beside and row['macs'] < TOO_LARGE * target:
                return row['macs']
        return target

    def measured(self, cut: Cut, measures: Sequence[str]) -> dict[str, Any]:
        """Cost and accuracies, the latter in percent of the test images."""
        network = cut.network.eval()
        found = {'macs': count_macs(network), 'params': count_params(network)}
        made = {
            'pruned': lambda: network,
            'recalibrated': lambda: self._recalibrated(network),
            'compensated': lambda: self._compensated(cut),
            'finetuned': lambda: self._finetuned(self._compensated(cut)),
            'taught': lambda: self._finetuned(self._compensated(cut), self.plain),
        }
        return {**found, **{m: accuracy(made[m](), self.test_images) for m in measures}}

    def _recalibrated(self, network: nn.Module) -> nn.Module:
        fresh = copy.deepcopy(network)
        recalibrate_norm_statistics(fresh, [pixels(fresh, images) for images, _ in self.seen])
        return fresh

    def _compensated(self, cut: Cut) -> nn.Module:
        """A copy that is compensated, if that is measured and something was cut by a config."""
        fresh = copy.deepcopy(cut.network)
        if cut.channel_cfg is not None and 'compensated' in self.settings.measures:
            inputs = [pixels(fresh, images) for images, _ in self.seen]
            compensate(self.plain, fresh, cut.channel_cfg, inputs)
        return fresh

    def _finetuned(self, network: nn.Module, teacher: nn.Module | None = None) -> nn.Module:
        s = self.settings
        train(
            network,
            self.train_images,
            s.finetune,
            s.finetune_lr,
            self.seed + 1,
            optimizer=s.optimizer,
            teacher=teacher,
        )
        return network

    # -- what the rows begin with, made when it is first needed ------------------------

    @cached_property
    def seen(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Training images for criteria that look at data, and for norm statistics."""
        steps = min(SEEN_BATCHES, num_steps(self.train_images, 1))
        shuffled = batches(self.train_images, 1, self.seed + 2)
        return [next(shuffled) for _ in range(steps)]

    @cached_property
    def plain(self) -> nn.Module:
        """The trained network."""
        network = build(self.name, self.settings.width, self.seed)
        return self._trained('plain', network, lambda: self._train(network))

    @cached_property
    def full_macs(self) -> int:
        """Multiply-adds of the unpruned network."""
        return count_macs(self.plain)

    @cached_property
    def with_penalty(self) -> nn.Module:
        """The network trained with a penalty on its scales."""
        network = build(self.name, self.settings.width, self.seed)
        s = self.settings
        return self._trained(
            'slimming',
            network,
            lambda: ours.train_slimming(
                network, self.train_images, s.epochs, s.lr, self.seed, SLIMMING_PENALTY
            ),
        )

    @cached_property
    def found(self) -> list[nn.Module]:
        """The subnets of a trained supernet, one per target."""
        s = self.settings
        supernet = supernets.supernet_of(build(self.name, s.width, self.seed))

        def trained() -> nn.Module:
            torch.manual_seed(self.seed)
            train(supernet, self.train_images, s.epochs, s.lr, self.seed)
            return supernet

        self._trained('autoslim', supernet, trained)
        folder = self.folder / f'{self.name}-seed{self.seed}-search'
        return supernets.search(supernet, s.targets, folder, s.images)

    @cached_property
    def peer(self) -> Peer:
        """Torch-Pruning on the trained network."""
        return Peer(self.plain, self.seen, self.seed)

    def _train(self, network: nn.Module) -> nn.Module:
        s = self.settings
        train(network, self.train_images, s.epochs, s.lr, self.seed, optimizer=s.optimizer)
        return network

    def _trained(
        self, what: str, network: nn.Module, trained: Callable[[], nn.Module]
    ) -> nn.Module:
        """A network with the weights of an earlier run, or trained and kept for a later one."""
        path = self.folder / f'{self.name}-seed{self.seed}-{what}.pth'
        if path.is_file():
            network.load_state_dict(torch.load(path, weights_only=True))
            return network.eval()
        made = trained().eval()
        with atomic_path(path) as unfinished:
            torch.save(made.state_dict(), unfinished)
        return made


def keys(
    settings: Settings,
    methods: Sequence[str] = METHODS,
    scopes: Sequence[str] = SCOPES,
    name: str = 'resnet',
) -> Iterator[Key]:
    """All rows of a network, the unpruned one first, Torch-Pruning's before mmprune's."""
    yield Key(UNPRUNED, '', 1.0, OURS)
    programs = (THEIRS, OURS) if settings.with_peer else (OURS,)
    for criterion in CRITERIA:
        if criterion.name not in methods:
            continue
        for scope, target, program in product(scopes, settings.targets, programs):
            if program == OURS or criterion.theirs is not None:
                yield Key(criterion.name, scope, target, program)
    if NETWORKS[name].data != 'digits':  # the others have trainings of their own
        return
    if SLIMMING in methods:
        for target, program in product(settings.targets, programs):
            yield Key(SLIMMING, 'global', target, program)
    if AUTOSLIM in methods:
        for target in settings.targets:
            yield Key(AUTOSLIM, '', target, OURS)


def settings_of(name: str, with_peer: bool, quick: bool = False) -> Settings:
    """What the numbers of a network depend on."""
    recipe = NETWORKS[name]
    found = Settings(
        epochs=recipe.epochs,
        lr=recipe.lr,
        finetune_lr=recipe.finetune_lr,
        optimizer=recipe.optimizer,
        width=recipe.width,
        with_peer=with_peer,
    )
    if recipe.data == 'mnist':
        found = replace(found, targets=(0.5, 0.25, 0.15), measures=tuple(MEASURES))
    return replace(found, epochs=0.5, finetune=0.5, width=8, images=128) if quick else found


def key_of(row: Mapping[str, Any]) -> Key:
    """Which row a row is."""
    return Key(*(row[field] for field in Key.__annotations__))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The rows of a file.

    Raises:
        InputError: It is none of this benchmark.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        if content['format'] != FORMAT:
            raise ValueError(f'the format is {content["format"]!r}, not {FORMAT!r}')
        [key_of(row) for row in content['rows']]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: no rows of the accuracy benchmark ({error})') from error
    return dict(content)
