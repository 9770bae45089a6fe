"""Errors about what a person gave: told in one message, without a traceback."""

import errno
import logging
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What the system says where nothing more can be written, whoever tried."""


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


class UnwritableError(InputError, OSError):
    """A file cannot be written where it was wanted."""

    __str__ = ValueError.__str__


@contextmanager
def in_words(put: Callable[[str], str]) -> Iterator[None]:
    """Have messages of an :class:`InputError` say options by the names that a caller gave them."""
    try:
        yield
    except InputError as error:
        raise type(error)(put(str(error))) from error


@contextmanager
def of_others(problem: str, advice: str) -> Iterator[None]:
    """Tell what code of a user's raises as an :class:`InputError`: it is the finding.

    Args:
        problem: What could not be done, such as run a network on some data.
        advice: What to give instead.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{problem}: {type(error).__name__}: {error}. {advice}') from error


def nearest(name: str, known: Iterable[str], most: int = 12) -> str:
    """What a message offers in the place of an unknown name.

    Args:
        name: What was given.
        known: What there is.
        most: How many are listed where none is like the given one.
    """
    names = [str(each) for each in known]
    close = get_close_matches(str(name), names, n=3)
    if close:
        return f'did you mean {" or ".join(map(repr, close))}?'
    more = ', ...' if len(names) > most else ''
    return f'there are {", ".join(map(repr, names[:most])) or "none"}{more}.'


def alternatives(name: str, options: Iterable[str]) -> str:
    """What a message offers in the place of an unknown option: the nearest ones, and all."""
    options = list(options)
    close = nearest(name, options, 0)
    start = f'{close} It' if close.startswith('did') else 'it'
    return f'{start} takes {", ".join(options)}'


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """End the program with status 2 and one message if an :class:`InputError` is raised.

    For the ``main`` of a command-line tool. So is a disk that fills up meanwhile, whoever writes to
    it. Any other error keeps its traceback, since it is a fault of mmprune and not of its input. A
    first SIGTERM or SIGHUP ends the program as an exception does, so that what is unfinished is
    removed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ends = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
    # What nohup has set to be ignored stays so.
    ends = [end for end in ends if is_main and signal.getsignal(end) == signal.SIG_DFL]
    for end in ends:
        signal.signal(end, _end)
    # A log that cannot be written is no reason for a traceback for each of its lines.
    told, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(2) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f'error: {error.filename or "the disk"}: {error.strerror}.', file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        logging.raiseExceptions = told
        for end in ends:
            signal.signal(end, signal.SIG_DFL)


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def listed(names: Iterable[str], count: int) -> str:
    """The first few names for a message, and how many more there are."""
    names = list(names)
    rest = len(names) - count
    return ', '.join(names[:count]) + (f' and {rest} more' if rest > 0 else '')


def by_reason(reasons: Mapping[str, str], count: int) -> list[str]:
    """Lines for a message: a reason, and the first few names that it holds for."""
    names_of: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names_of.setdefault(why, []).append(name)
    return [f'{listed(names, count)}: {why}' for why, names in names_of.items()]


def check_choice(option: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that an option does not have."""
    if value not in allowed:
        names = list(map(repr, allowed))
        choice = ' or '.join(names) if len(names) == 2 else f'one of {", ".join(names)}'
        raise InputError(f'{option} must be {choice}, not {value!r}')
