"""Jobs that wait for each other."""

import threading

import pytest
import torch

from mmprune.compensation.lockstep import LockStep


def recorded(*paths):
    """Run jobs that wait at these points; what happened, in order."""
    happened = []
    lock = LockStep(lambda point: happened.append(f'meet {point}'))

    def job(name, points):
        for point in points:
            happened.append(f'{name}{point}')
            lock.wait(point)
        assert not torch.is_grad_enabled()

    lock.run([lambda n=n, p=p: job(n, p) for n, p in zip('abc', paths, strict=False)])
    return happened


def test_a_point_is_met_once_when_all_have_come():
    assert recorded([0, 1], [0, 1]) == ['a0', 'b0', 'meet 0', 'a1', 'b1', 'meet 1']


def test_jobs_that_go_different_ways_meet_at_the_earlier_point_first():
    happened = recorded([0, 3], [2, 3], [3])
    assert happened == ['a0', 'b2', 'c3', 'meet 0', 'a3', 'meet 2', 'b3', 'meet 3']


def test_an_error_of_a_job_is_told_and_ends_the_others():
    ended = []
    lock = LockStep(lambda point: None)

    def waits():
        try:
            lock.wait(0)
        finally:
            ended.append(True)

    def fails():
        raise ValueError('no')

    before = threading.active_count()
    with pytest.raises(ValueError, match='no'):
        lock.run([waits, fails, waits])
    assert ended == [True]
    assert threading.active_count() == before


def test_an_error_between_jobs_ends_them_too():
    def meet(point):
        raise RuntimeError('singular')

    lock = LockStep(meet)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match='singular'):
        lock.run([lambda: lock.wait(0)] * 3)
    assert threading.active_count() == before
