"""Errors about what a person gave: told in one message, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file, an option or a value that mmprune was given cannot be used.

    The message names the file (and the layer and both numbers, where there
    are any) and says what to do. Whoever raises it has changed nothing on
    disk or in a model.
    """


class MissingFileError(InputError, FileNotFoundError):
    """A file that mmprune was given does not exist."""

    # FileNotFoundError would print an errno in front.
    __str__ = ValueError.__str__


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """End the program with status 2 and one message if an :class:`InputError` is raised.

    For the ``main`` of a command-line tool. Any other error keeps its
    traceback, since it is a fault of mmprune and not of its input.
    """
    try:
        yield
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(2) from error
