"""The candidates of a search, shared by all processes and machines that work on it.

A study of Optuna's holds a trial for each candidate. A worker takes a candidate by writing a trial
that runs; of two that take the same one, the later gives way. While it evaluates, the trial has a
heart that beats, and a trial whose worker is dead fails, so that others may take the candidate.
Everything that is known of a candidate is one attribute of its trial, and not a parameter for each
group: storages write parameters one by one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

from mmengine.dist import broadcast_object_list, is_main_process

from mmprune.dependencies import require
from mmprune.errors import InputError, MissingFileError
from mmprune.fileio import no_file
from mmprune.search.history import Evaluation, check_settings, read_history, write_history
from mmprune.search.storage import (
    JOURNAL,
    StorageError,
    check_own_results,
    hidden,
    open_storage,
    storage_errors,
)

BEAT, GRACE = 10.0, 60.0
"""Seconds between two beats of a heart, and after how many without one a worker is dead."""
RETRIES = (1.0, 4.0, 10.0, 15.0)
"""Seconds to wait for a storage that does not take a result."""
_CANDIDATE, _FOUND, _BEAT, _SETTINGS = 'candidate', 'found', 'beat', 'settings'
_RESULTS, _VALUES = ('metric', 'metrics'), 'values'
T = TypeVar('T')


class Study:
    """What is evaluated, and what is being evaluated by whom.

    In a distributed run only the main process reads and writes, and the others are told.

    Args:
        where: A journal file, or the URL of a database; see ``open_storage``.
        name: Of the study, of which a storage may have several. It is made if there is none.
        settings: What evaluations depend on: plain data that JSON can hold.
        directions: ``'maximize'`` or ``'minimize'``, for each objective.
        rescue: Folder of a file for what the storage does not take.
        alone: Whether a storage that has other studies is refused, whose results are in one folder.

    Attributes:
        evaluations: What is known, by the keys of subnets.
        claims: What living workers are at, this one too, by the keys of subnets.

    Raises:
        InputError: The study has other settings, or cannot be read or written.
    """

    def __init__(
        self,
        where: str,
        name: str,
        settings: dict[str, Any],
        directions: Sequence[str],
        rescue: Path,
        alone: bool = False,
    ) -> None:
        self.where, self.name, self.rescue = where, name, rescue
        self.evaluations: dict[str, Evaluation] = {}
        self.claims: dict[str, Evaluation] = {}
        self._me = f'{_host()} {os.getpid()} {time.time()}'
        self._settled: set[int] = set()  # numbers of trials that will never change
        self._fresh: list[Evaluation] = []
        self._running: dict[str, Any] = {}
        self._beats: dict[int, tuple[int, float]] = {}
        self._mine: int | None = None
        self._opened = ExitStack()
        self._quiet = Event()
        on_main(lambda: self._open(settings, directions, alone))
        self.refresh()

    def __str__(self) -> str:
        return f'{hidden(self.where)}, study {self.name}'

    def refresh(self) -> None:
        """Learn what others have found and taken, and give back what dead ones were at."""

        def read() -> tuple[list[Evaluation], dict[str, Evaluation]]:
            self._read()
            fresh, self._fresh = self._fresh, []
            return fresh, {key: _evaluation(trial) for key, trial in self._running.items()}

        fresh, self.claims = on_main(read)
        for evaluation in fresh:
            self.evaluations.setdefault(evaluation.key, evaluation)

    def claim(self, candidate: Evaluation) -> int | None:
        """Take a candidate, unless it is known or somebody is at it.

        Returns:
            Its number; None if it is not for this worker.
        """
        return on_main(lambda: self._claim(candidate))

    def finish(self, evaluation: Evaluation, values: Sequence[float]) -> None:
        """Write what was found of the candidate that was taken.

        Args:
            evaluation: The candidate, with its metrics.
            values: The objectives, for other tools.

        Raises:
            StorageError: The storage does not take it; it names the file that holds it.
        """
        on_main(lambda: self._finish(evaluation, values))

    def give_back(self) -> None:
        """Let somebody else evaluate the candidate that was taken."""
        if is_main_process() and self._mine is not None:
            with suppress(StorageError):
                self._end(self._mine)
            self._stop()

    def close(self) -> None:
        """Let go of the storage."""
        self._opened.close()

    def add(self, evaluations: Iterable[tuple[Evaluation, Sequence[float]]]) -> None:
        """Write what was evaluated elsewhere, with its objectives; what is known stays."""

        def write() -> None:
            for evaluation, values in evaluations:
                if evaluation.key not in self.evaluations:
                    self._write(evaluation, values)

        on_main(write)
        self.refresh()

    # -- in the main process ----------------------------------------------------------------

    def _open(self, settings: dict[str, Any], directions: Sequence[str], alone: bool) -> None:
        self._optuna = optuna = require('optuna', 'a search')
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = self._opened.enter_context(open_storage(self.where))
        with storage_errors(self.where):
            directed = [optuna.study.StudyDirection[each.upper()] for each in directions]
            names = [each.study_name for each in self._storage.get_all_studies()]
            if alone:
                check_own_results(Path(self.where).parent, self.name, names)
            if self.name not in names:
                with suppress(optuna.exceptions.DuplicatedStudyError):  # another worker was faster
                    self._storage.create_new_study(directed, self.name)
            self._id = self._storage.get_study_id_from_name(self.name)
            found = self._storage.get_study_user_attrs(self._id).get(_SETTINGS)
            if found is None:
                self._storage.set_study_user_attr(self._id, _SETTINGS, settings)
        if found is not None:
            check_settings(str(self), settings, found)

    def _read(self) -> None:
        """Put what is new into ``_fresh``, and what living workers are at into ``_running``."""
        with storage_errors(self.where):
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
        self._running = {}
        for trial in trials:
            if trial.number in self._settled or _CANDIDATE not in trial.user_attrs:
                continue
            if trial.state == self._optuna.trial.TrialState.RUNNING and not self._is_dead(trial):
                self._running.setdefault(trial.user_attrs[_CANDIDATE]['key'], trial)
                continue
            self._settled.add(trial.number)
            found = trial.user_attrs.get(_FOUND)
            if trial.state == self._optuna.trial.TrialState.RUNNING:
                self._end(trial._trial_id, found)  # its worker may have died before the last word
            if found is not None:
                self._fresh.append(_evaluation(trial))

    def _is_dead(self, trial: Any) -> bool:
        """Tell whether the worker of a trial that runs will never end it."""
        worker, now = trial.user_attrs[_CANDIDATE]['worker'], time.monotonic()
        if worker == self._me:
            return trial._trial_id != self._mine
        host, pid, _ = worker.rsplit(' ', 2)
        if host == _host():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass
        # No clock of another machine is trusted: what counts is how long a beat is seen.
        beat = trial.user_attrs.get(_BEAT, 0)
        if self._beats.get(trial.number, (None, now))[0] != beat:
            self._beats[trial.number] = beat, now
        return now - self._beats[trial.number][1] > GRACE

    def _claim(self, candidate: Evaluation) -> int | None:
        trial = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            user_attrs={_CANDIDATE: {**_given(candidate), 'worker': self._me}},
        )
        with storage_errors(self.where):
            self._mine = mine = self._storage.create_new_trial(self._id, trial)
        self._read()
        known = self.evaluations.keys() | {each.key for each in self._fresh}
        first = self._running.get(candidate.key)
        if candidate.key in known or first is None or first._trial_id != mine:
            self._end(mine)
            self._mine = None
            return None
        self._quiet = Event()
        Thread(target=self._beat, args=(mine, self._quiet), daemon=True).start()
        return int(first.number)

    def _beat(self, trial: int, quiet: Event) -> None:
        """Show that this worker lives, until it is quiet."""
        number = 0
        while not quiet.wait(BEAT):
            number += 1
            with suppress(StorageError, RuntimeError), storage_errors(self.where):
                self._storage.set_trial_user_attr(trial, _BEAT, number)

    def _stop(self) -> None:
        self._quiet.set()
        self._mine = None

    def _end(self, trial: int, found: Mapping[str, Any] | None = None) -> None:
        """Have a trial fail, so that its candidate may be taken again, if nothing was found."""
        states = self._optuna.trial.TrialState
        state, values = (states.FAIL, None) if found is None else (states.COMPLETE, found[_VALUES])
        # Somebody else may have done it.
        with storage_errors(self.where), suppress(RuntimeError):
            self._storage.set_trial_state_values(trial, state, values)

    def _finish(self, evaluation: Evaluation, values: Sequence[float]) -> None:
        assert self._mine is not None
        trial, found = self._mine, _results(evaluation, values)
        complete = self._optuna.trial.TrialState.COMPLETE
        for wait in (*RETRIES, None):
            try:
                with storage_errors(self.where):
                    try:
                        self._storage.set_trial_user_attr(trial, _FOUND, found)
                        self._storage.set_trial_state_values(trial, complete, found[_VALUES])
                    except RuntimeError:  # others took this worker for dead
                        self._write(evaluation, values)
                break
            except StorageError as error:
                if wait is None:
                    self._stop()
                    raise self._rescued(evaluation, error) from error
                time.sleep(wait)
        self._stop()

    def _write(self, evaluation: Evaluation, values: Sequence[float]) -> None:
        """Write a trial that is complete."""
        trial = self._optuna.trial.create_trial(
            values=list(values),
            user_attrs={
                _CANDIDATE: {'worker': self._me, **_given(evaluation)},
                _FOUND: _results(evaluation, values),
            },
        )
        with storage_errors(self.where):
            self._storage.create_new_trial(self._id, trial)

    def _rescued(self, evaluation: Evaluation, error: StorageError) -> StorageError:
        """Put an evaluation into a file; return what to say."""
        path = self.rescue / f'unsaved_{os.getpid()}.jsonl'
        try:
            write_history(path, [evaluation])
        except OSError:
            return error
        return StorageError(f'{error} The last evaluation is in {path}: add --import {path}')


def on_main(action: Callable[[], T]) -> T:
    """Do something in the main process; all of them return, or raise, what came of it."""
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = action()
        except InputError as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def read_candidates(
    source: str | os.PathLike[str], study: str | None = None, weights: str | None = None
) -> list[Evaluation]:
    """Return what a search has evaluated, in the order in which it was taken.

    Args:
        source: The work directory of a search, its journal, the URL of a database, or a file of an
            earlier version.
        study: The study's name, if the storage has several.
        weights: The ``weights_key`` of the network that they must be of; None takes any.

    Raises:
        InputError: There is no search, or no such study, it cannot be read, or is of other weights.
    """
    where = str(source)
    if '://' not in where:
        where = os.path.join(where, JOURNAL) if os.path.isdir(where) else where
        if where.endswith('.jsonl'):
            return read_history(Path(where))
        problem = no_file(where)
        if problem:
            raise MissingFileError(f'{where}: there is no such file of a search: it {problem}.')
    with open_storage(where) as storage, storage_errors(where):
        found = {each.study_name: each._study_id for each in storage.get_all_studies()}
        name = next(iter(found), '') if study is None and len(found) == 1 else study
        if name not in found:
            raise InputError(
                f'{hidden(where)}: which study? There are {", ".join(found) or "none"}.'
            )
        trials = storage.get_all_trials(found[name], deepcopy=False)
        settings = storage.get_study_user_attrs(found[name]).get(_SETTINGS, {})
    if weights and settings.get('weights', weights) != weights:
        raise InputError(
            f'{hidden(where)}: its candidates were evaluated with other weights than those of this '
            'checkpoint: give the checkpoint that was searched'
        )
    is_done = [each.state.name == 'COMPLETE' and _CANDIDATE in each.user_attrs for each in trials]
    evaluations = map(_evaluation, compress(trials, is_done))
    return list({each.key: each for each in reversed([*evaluations])}.values())[::-1]


def _given(evaluation: Evaluation) -> dict[str, Any]:
    """What is known of a candidate before it is evaluated."""
    later = ('index', *_RESULTS)
    return {key: value for key, value in asdict(evaluation).items() if key not in later}


def _results(evaluation: Evaluation, values: Sequence[float]) -> dict[str, Any]:
    return {**{key: getattr(evaluation, key) for key in _RESULTS}, _VALUES: list(values)}


def _evaluation(trial: Any) -> Evaluation:
    """A trial's candidate, with what was found of it."""
    attrs = trial.user_attrs
    found = {key: value for key, value in attrs.get(_FOUND, {}).items() if key in _RESULTS}
    return Evaluation(**{'metric': None, **attrs[_CANDIDATE], **found, 'index': trial.number})


def _host() -> str:
    """Names the place in which a process has its number: a machine, or a container on it."""
    name = socket.gethostname()
    with suppress(OSError):
        return f'{name} {os.stat("/proc/self/ns/pid").st_ino}'
    return name
