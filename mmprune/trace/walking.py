"""Whether a model is run to learn of its channels, and not to train or to predict."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_walking = ContextVar('_is_walking', default=False)


@contextmanager
def walking() -> Iterator[None]:
    """Context in which a model runs on a road."""
    token = _is_walking.set(True)
    try:
        yield
    finally:
        _is_walking.reset(token)


def is_walking() -> bool:
    """Whether the forward pass that asks is one on a road: in it a model is alone."""
    return _is_walking.get()
