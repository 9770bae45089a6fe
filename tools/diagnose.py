"""Say what of a network can be pruned, prove it on random subnets, and draw its channel groups."""

import argparse
import sys

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.diagnose import diagnose
from mmprune.errors import exit_on_input_error

EPILOG = """\
Works for any config with a `model` that takes images: a plain network of mmcls, or an AutoSlim,
whose own pruner is used then. No data is read. It traces the network, sorts its channels into
groups, and runs random subnets three ways: sliced and masked in the supernet, and deployed.
The output directory gets
  report.txt    what was traced, operations without parser, parameters that are not reached, every
                group with its members and constraints, what is pinned and why, the prunable share
                of parameters and MACs, and the first module that differs, if a subnet does
  report.json   the same for programs
  groups.svg    the layers and their channel groups as a picture, for a browser
A network that cannot be run or traced is diagnosed too: where it fails, and what to do.

exit status: 0 if something is prunable and all subnets are verified, 1 if not,
2 if the config or the checkpoint cannot be used.

examples:
  python tools/diagnose.py configs/digits/resnet-small_1xb64_digits.py --input-shape 1 1 8 8
  python tools/diagnose.py CONFIG --checkpoint CHECKPOINT --out-dir work_dirs/diagnosis
  python tools/diagnose.py CONFIG --cfg-options pruner.attention=dims
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with a model')
    parser.add_argument(
        '--checkpoint',
        help='weights of the network, or of a supernet of it (default: those that the config '
        'builds, with random numbers where it builds zeros and ones)',
    )
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs='+',
        metavar='N',
        help="shape of the input: N C H W or C H W (default: AutoSlim's or the first test image's)",
    )
    parser.add_argument(
        '--subnets', type=int, default=3, help='random subnets to verify (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (default: 0)')
    parser.add_argument('--out-dir', help='where to write (default: work_dirs/<config>/diagnosis)')
    add_cfg_options(parser, 'pruner.attention=dims')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        found = diagnose(
            args.config,
            args.checkpoint,
            args.out_dir,
            args.input_shape,
            args.subnets,
            args.seed,
            args.cfg_options,
        )
    sys.exit(found.exit_status)


if __name__ == '__main__':
    main()
