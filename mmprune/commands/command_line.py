"""Options that several command-line tools have in common."""

from __future__ import annotations

import argparse
import os

from mmengine.config import DictAction


def add_cfg_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--cfg-options``, with ``example`` in its help."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help=f'values to set in the config, as in {example}; write a list as "[1,2]", in quotes '
        'and without spaces',
    )


def parse_number(text: str) -> tuple[str, float]:
    """Read ``KEY=NUMBER``, for ``type=`` of an option."""
    key, _, value = text.partition('=')
    try:
        return key, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=NUMBER, such as macs=0.5') from None


def parse_ratio(text: str) -> float | str:
    """Read a number, or the name of a file, for ``type=`` of an option."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_launched(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options of a tool that may be started as one of several processes, and parse.

    torch's launchers tell a process its rank by an option or by ``LOCAL_RANK``; after this
    the variable is set either way.
    """
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='what started this process and its siblings (default: none, a single process)',
    )
    # torch.distributed.launch passes one of the two, by version.
    parser.add_argument('--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
