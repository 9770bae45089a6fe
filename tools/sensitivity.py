"""Measure what each group of channels costs in accuracy at several widths, one group at a time."""

import argparse

from mmprune.commands.command_line import add_cfg_options, parse_number
from mmprune.commands.sensitivity import AFTER, SensitivityOptions, sensitivity
from mmprune.errors import exit_on_input_error

EPILOG = """\
Takes the config that the network was trained with. Every prunable group is cut to each of --shares
of its channels while all others stay whole, gets weights that make up for it (--after), and is
measured by the config's val_evaluator (the test_evaluator if there is none). Fewer images make it
faster: --cfg-options val_dataloader.dataset.indices=500.

The output directory gets
  sensitivity.json  every measurement, written when it is made: the same command goes on from there
  sensitivity.csv   the same for a spreadsheet
  sensitivity.png   a picture: groups in order of execution, widths, what they lose
  ratios.json       shares to keep by group, for tools/prune.py --ratio ratios.json, or
                    ImportancePruner(ratio='ratios.json'). With --drop, the narrowest width of each
                    group that loses no more; with --budget, the widths within it that lose least,
                    the groups' losses added up

examples:
  python tools/sensitivity.py CONFIG CHECKPOINT --drop 0.5
  python tools/sensitivity.py CONFIG CHECKPOINT --budget macs=0.5 --shares 0.8 0.6 0.4 0.2
  python tools/prune.py CONFIG CHECKPOINT --ratio sensitivity/ratios.json
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a network with an evaluator')
    parser.add_argument('checkpoint', help='checkpoint of the network')
    parser.add_argument(
        '--shares',
        type=float,
        nargs='+',
        default=(0.75, 0.5, 0.25),
        metavar='SHARE',
        help='shares of a group that are kept (default: 0.75 0.5 0.25)',
    )
    parser.add_argument(
        '--after',
        choices=AFTER,
        default=AFTER[0],
        help='what is done before measuring: weights solved anew from training images, norm '
        'statistics computed anew from them, or nothing (default: %(default)s)',
    )
    parser.add_argument(
        '--metric', metavar='NAME', help="the evaluator's metric, if it has several"
    )
    parser.add_argument(
        '--lower-is-better', action='store_true', help='the metric is an error, not an accuracy'
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        '--drop',
        type=float,
        default=1.0,
        help='what a group may lose of the metric in ratios.json (default: %(default)s)',
    )
    target.add_argument(
        '--budget',
        nargs='+',
        type=parse_number,
        metavar='KEY=VALUE',
        help='what the network of ratios.json may cost: macs, params; up to 1 as a share',
    )
    parser.add_argument('--importance', metavar='NAME', help='which channels stay (default: L1)')
    parser.add_argument(
        '--keep', nargs='+', default=(), metavar='LAYER', help='layers whose outputs stay'
    )
    parser.add_argument(
        '--input-shape', type=int, nargs='+', metavar='N', help='shape of the input, as N C H W'
    )
    parser.add_argument(
        '--out-dir', help='where to write (default: sensitivity, by the checkpoint)'
    )
    parser.add_argument('--restart', action='store_true', help='measure everything anew')
    add_cfg_options(parser, 'val_dataloader.dataset.indices=500')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = vars(parse_args())
    config, checkpoint = args.pop('config'), args.pop('checkpoint')
    cfg_options = args.pop('cfg_options')
    args['budget'] = dict(args['budget']) if args['budget'] else None
    with exit_on_input_error():
        sensitivity(config, checkpoint, SensitivityOptions(**args), cfg_options)


if __name__ == '__main__':
    main()
