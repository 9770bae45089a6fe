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
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.bench.accuracy import ours, supernets
from mmprune.bench.accuracy.criteria import (
    BESIDE,
    CRITERIA,
    MEASURES,
    OF_DIGITS,
    OURS,
    SCOPES,
    THEIRS,
)
from mmprune.bench.accuracy.data import DATA, Images
from mmprune.bench.accuracy.learned import LEARNED, learned
from mmprune.bench.accuracy.networks import NETWORKS, Settings, build, count_macs
from mmprune.bench.accuracy.ours import Cut
from mmprune.bench.accuracy.peer import Peer
from mmprune.bench.accuracy.peer import slimmed as slimmed_by_peer
from mmprune.bench.accuracy.supernets import AUTOSLIM, EACH, NARROW, WAYS
from mmprune.bench.accuracy.training import accuracy, batches, num_steps, pixels, train
from mmprune.bench.pages import read_rows
from mmprune.compensation import compensate
from mmprune.datafiles import write_data
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.models import AutoSlim, recalibrate_norm_statistics
from mmprune.zoo.running import count_params

FORMAT = 'mmprune accuracy 1'
SLIMMING, UNPRUNED = 'network slimming', 'unpruned'
METHODS = (*(criterion.name for criterion in CRITERIA), SLIMMING, *WAYS, *LEARNED)
RANKED = 20
"""Random subnets that are finetuned each alone."""
SEEN_BATCHES = 8
TOO_LARGE = 1.05
SLIMMING_PENALTY = dict(weight=2e-2, decay=0, shift_factor=0, plot=False)
"""As in the paper, and in Torch-Pruning; the strength was chosen on a seed of its own."""


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
        self._loops: dict[tuple[bool, str], Any] = {}
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

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far."""
        return self.content['rows']

    def run(
        self,
        methods: Sequence[str] = METHODS,
        scopes: Sequence[str] = SCOPES,
        measures: Sequence[str] = tuple(MEASURES),
    ) -> None:
        """Measure what is missing, and write the file after each row.

        Args:
            methods: Some of ``METHODS``.
            scopes: Some of ``SCOPES``, of criteria.
            measures: Some of ``MEASURES``; others can be added to the same rows later.
        """
        rows, parent = {key_of(row): row for row in self.rows}, parent_process()
        for key in keys(self.settings, methods, scopes, self.name):
            row = rows.get(key, {})
            known = self.settings.of(key.program)
            if key.method in LEARNED or WAYS.get(key.method, (False,))[0]:
                known = OF_DIGITS  # of no network that could be a teacher, or be compensated for
            missing = [m for m in known if m in measures and m not in row]
            if not missing:
                continue
            if parent is not None and not parent.is_alive():
                return  # it was killed, and the next run may have begun
            start = time.process_time()
            found = self.measured(self.network_of(key), missing)
            if not row:
                row.update(asdict(key), seconds=0.0)
                self.rows.append(row)
            seconds = round(row['seconds'] + time.process_time() - start, 2)
            row.update(found, seconds=seconds)
            write_data(self.content, self.path)

    # -- rows --------------------------------------------------------------------------

    def network_of(self, key: Key) -> Cut:
        """The network of a row, not finetuned."""
        is_peer, target = key.program == THEIRS, key.target * self.full_macs
        if key.method == UNPRUNED:
            return Cut(self.plain)
        if key.method in WAYS:
            loop = self._searched(WAYS[key.method])
            return supernets.cut(loop, key.method, key.target, key.scope)
        if key.method in LEARNED:
            return Cut(self._learned(key))
        if key.method == SLIMMING and is_peer:
            return Cut(slimmed_by_peer(self.with_penalty, target))
        if key.method == SLIMMING:
            return Cut(ours.slimmed(self.with_penalty, self._budget(key)))
        (criterion,) = (c for c in CRITERIA if c.name == key.method)
        if is_peer:
            return Cut(self.peer.pruned(criterion, key.scope, target))
        is_random = criterion.ours['type'] == 'RandomImportance'
        config = {**criterion.ours, **(dict(seed=self.seed) if is_random else {})}
        return ours.pruned(self.plain, config, key.scope, self._budget(key), self.seen)

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
        found = {'macs': count_macs(network), 'params': count_params(network), **(cut.seen or {})}
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
        epochs, lr, seed = s.finetune, s.finetune_lr, self.seed + 1
        return train(
            network, self.train_images, epochs, lr, seed, optimizer=s.optimizer, teacher=teacher
        )

    def _learned(self, key: Key) -> nn.Module:
        """The network of a row whose widths were learned while it trained."""
        s, folder = self.settings, self.folder / f'{self.name}-seed{self.seed}-learned'
        network = build(self.name, s.width, self.seed)
        budget, epochs = key.target * self.full_macs, max(2, round(s.epochs))
        return learned(
            key.method, network, self.train_images, budget, epochs, s.lr, self.seed, folder
        )

    def _searched(self, way: tuple[bool, str]) -> Any:
        """A search loop, done; later rows are of the same one."""
        if way not in self._loops:
            kind = 'autoslim' if way[0] else 'plain'
            folder = self.folder / f'{self.name}-seed{self.seed}-{kind}-{way[1].lower()}'
            own = (
                self.supernet if way[0] else supernets.supernet_of(copy.deepcopy(self.plain), 'L1')
            )
            data, s = NETWORKS[self.name].data, self.settings
            self._loops[way] = supernets.search(
                own, data, way, s.targets, folder, s.images, self.seed
            )
        return self._loops[way]

    # -- what the rows begin with, made when it is first needed ------------------------

    @cached_property
    def train_images(self) -> Images:
        """Of the data set."""
        return DATA[NETWORKS[self.name].data].images('train').first(self.settings.images)

    @cached_property
    def test_images(self) -> Images:
        """Of the data set."""
        return DATA[NETWORKS[self.name].data].images('test').first(self.settings.images)

    @cached_property
    def seen(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Training images for criteria that look at data, and for norm statistics."""
        steps = min(SEEN_BATCHES, num_steps(self.train_images, 1))
        shuffled = batches(self.train_images, 1, self.seed + 2)
        return [next(shuffled) for _ in range(steps)]

    @cached_property
    def plain(self) -> nn.Module:
        """The trained network."""
        s = self.settings
        kind = dict(optimizer=s.optimizer)
        return self._trained('plain', build(self.name, s.width, self.seed), train, **kind)

    @cached_property
    def full_macs(self) -> int:
        """Multiply-adds of the unpruned network."""
        return count_macs(self.plain)

    @cached_property
    def with_penalty(self) -> nn.Module:
        """The network trained with a penalty on its scales."""
        s = self.settings
        network = build(self.name, s.width, self.seed)
        return self._trained('slimming', network, ours.train_slimming, options=SLIMMING_PENALTY)

    @cached_property
    def supernet(self) -> AutoSlim:
        """A supernet, trained."""
        supernet = supernets.supernet_of(build(self.name, self.settings.width, self.seed))
        self._trained('autoslim', supernet, train)
        return supernet

    @cached_property
    def peer(self) -> Peer:
        """Torch-Pruning on the trained network."""
        return Peer(self.plain, self.seen, self.seed)

    def _trained(
        self, what: str, network: nn.Module, trained: Callable[..., nn.Module], **options: Any
    ) -> nn.Module:
        """A network with the weights of an earlier run, or trained and kept for a later one."""
        path = self.folder / f'{self.name}-seed{self.seed}-{what}.pth'
        if path.is_file():
            network.load_state_dict(torch.load(path, weights_only=True))
            return network.eval()
        torch.manual_seed(self.seed)  # of the widths that a supernet draws
        s = self.settings
        made = trained(network, self.train_images, s.epochs, s.lr, self.seed, **options).eval()
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
    if NETWORKS[name].settings.optimizer == 'SGD':
        for method, target in product([m for m in LEARNED if m in methods], settings.targets):
            yield Key(method, '', target, OURS)
        for method, target in product([m for m in WAYS if m in methods], settings.targets):
            if method == EACH and target == NARROW:
                yield from (Key(method, str(number), target, OURS) for number in range(RANKED))
            elif method == AUTOSLIM or (target <= NARROW and method != EACH):
                yield Key(method, '', target, OURS)
    if SLIMMING in methods and NETWORKS[name].data == 'digits':  # a training of its own
        for target, program in product(settings.targets, programs):
            yield Key(SLIMMING, 'global', target, program)


def key_of(row: Mapping[str, Any]) -> Key:
    """Which row a row is."""
    return Key(*(row[field] for field in Key.__annotations__))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The rows of a file.

    Raises:
        InputError: It is none of this benchmark.
    """
    return read_rows(path, FORMAT, 'rows of the accuracy benchmark', key_of)
