"""Several forward passes that wait for each other at the same layer."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch


class _Cancelled(BaseException):
    """Ends a pass that nobody waits for any more; no ``except Exception`` stops it."""


class _Pass:
    """One job in a thread of its own, which runs only while it is told to."""

    def __init__(self, job: Callable[[], Any], back: threading.Semaphore) -> None:
        self.go, self.back = threading.Semaphore(0), back
        self.point: int | None = None
        self.is_done = self.is_cancelled = False
        self.error: BaseException | None = None
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        context = contextvars.copy_context()
        target = lambda: context.run(self._run, job, device)  # noqa: E731
        self.thread = threading.Thread(target=target, daemon=True)

    def _run(self, job: Callable[[], Any], device: int | None) -> None:
        self.go.acquire()
        try:
            if self.is_cancelled:
                return
            if device is not None:
                torch.cuda.set_device(device)
            with torch.no_grad():  # torch's modes are a thread's own
                job()
        except _Cancelled:
            pass
        except BaseException as error:  # told by the thread that waits
            self.error = error
        finally:
            self.is_done, self.point = True, None
            self.back.release()

    def wait(self, point: int) -> None:
        self.point = point
        self.back.release()
        self.go.acquire()
        self.point = None
        if self.is_cancelled:
            raise _Cancelled


class LockStep:
    """Runs jobs one at a time, from one meeting point to the next.

    A job that calls ``wait(point)`` rests there until ``meet(point)`` was called, which is when
    all jobs have ended or rest, and no point before it has somebody waiting. So what is done in
    ``meet`` is done once, after every job has come so far and before any goes on.

    Args:
        meet: Called with the point.
    """

    def __init__(self, meet: Callable[[int], None]) -> None:
        self.meet = meet
        self._back = threading.Semaphore(0)
        self._running: _Pass | None = None

    def wait(self, point: int) -> None:
        """Rest at a point; called by a job."""
        assert self._running is not None
        self._running.wait(point)

    def run(self, jobs: Sequence[Callable[[], Any]]) -> None:
        """Run jobs to their ends.

        Raises:
            BaseException: What a job raised; the others are ended then.
        """
        passes = [_Pass(job, self._back) for job in jobs]
        try:
            for each in passes:
                each.thread.start()
                self._resume(each)
            while waiting := [each for each in passes if not each.is_done]:
                point = min(each.point for each in waiting if each.point is not None)
                self.meet(point)
                for each in [w for w in waiting if w.point == point]:
                    self._resume(each)
        finally:
            self._end(passes)

    def _resume(self, one: _Pass) -> None:
        self._running = one
        one.go.release()
        self._back.acquire()
        if one.error is not None:
            raise one.error

    def _end(self, passes: Sequence[_Pass]) -> None:
        for each in passes:
            if each.thread.is_alive():
                each.is_cancelled = True
                each.go.release()
                each.thread.join()
