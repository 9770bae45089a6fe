"""Search a supernet, or any trained network, for the best subnets under a config's budgets."""

import argparse

from mmprune.commands.command_line import add_cfg_options, parse_launched
from mmprune.commands.search_subnet import search_subnet
from mmprune.errors import exit_on_input_error

EPILOG = """\
The config needs `search_cfg`, for example
  search_cfg = dict(type='mmprune.GreedySearchLoop', targets=[0.5, 0.25], max_channel_bins=12)
with targets as MACs or as fractions of the full network's, or an `mmprune.OptunaSearchLoop`
with `constraints=dict(macs=..., params=...)`.

Into the work directory go
  study.journal          every candidate: its channels, cost and metric; --resume goes on from it
  subnet_<budget>.yaml   the channel config found for each budget, for tools/deploy_subnet.py
  search_results.json    the list of them

The same command with --resume, or with one --storage, on this machine or on others, shares the
work of a search that runs: nothing is evaluated twice, and what a dead worker was at is given back.

examples:
  python tools/search_subnet.py configs/autoslim/autoslim_resnet-small_1xb64_digits.py \\
      work_dirs/autoslim_resnet-small_1xb64_digits/epoch_20.pth
  python tools/search_subnet.py CONFIG CHECKPOINT --cfg-options search_cfg.targets="[300e6]"
  python tools/search_subnet.py CONFIG CHECKPOINT --storage postgresql+psycopg://me@host/studies
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with search_cfg, of a supernet or any network')
    parser.add_argument('checkpoint', help='checkpoint of it')
    parser.add_argument(
        '--work-dir', help='where results go (default: work_dirs/<config name>_search)'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the study in the work directory, if there is one, also together with '
        'others; without it an earlier one is moved into earlier_<number>',
    )
    parser.add_argument(
        '--storage', metavar='WHERE', help='a journal file or the URL of a database for the study'
    )
    parser.add_argument('--study', metavar='NAME', help="its name there (default: the config's)")
    parser.add_argument(
        '--import',
        dest='imported',
        metavar='FILE',
        help='begin with the evaluations of a search_history.jsonl',
    )
    add_cfg_options(parser, 'search_cfg.max_channel_bins=8')
    return parse_launched(parser)


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        search_subnet(
            args.config,
            args.checkpoint,
            args.work_dir,
            args.resume,
            args.cfg_options,
            args.launcher,
            args.storage,
            args.study,
            args.imported,
        )


if __name__ == '__main__':
    main()
