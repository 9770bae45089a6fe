"""Count the multiply-adds (MACs), FLOPs and parameters of a config's network."""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.get_flops import get_flops
from mmprune.errors import exit_on_input_error

EPILOG = """\
MACs are the multiply-adds of convolutions, linear layers and matrix products; one MAC is two FLOPs.
Of an AutoSlim the full network is counted, of a deployed config the small one; the table says at
which size of input.

examples:
  python tools/get_flops.py configs/digits/resnet-small_1xb64_digits.py
  python tools/get_flops.py pruned/deployed.py --input-shape 1 1 16 16 --depth 3
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with a model')
    parser.add_argument(
        '--input-shape',
        '--shape',
        type=int,
        nargs='+',
        metavar='N',
        help="shape of the input: N C H W or C H W (default: AutoSlim's or the first test image's)",
    )
    parser.add_argument(
        '--depth', type=int, default=2, help='parts of a name that make a row (default: 2)'
    )
    add_cfg_options(parser, 'model.backbone.depth=34')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        get_flops(args.config, args.input_shape, args.depth, args.cfg_options)


if __name__ == '__main__':
    main()
