"""Print a config with all that it inherits and all that the command line sets."""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.print_config import print_config
from mmprune.errors import exit_on_input_error

EPILOG = """examples:
  python tools/print_config.py configs/autoslim/autoslim_resnet-small_1xb64_digits.py
  python tools/print_config.py autoslim_resnet-small_1xb64_digits.py --out whole.py
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="a config file; one of mmprune's is found by its name too")
    parser.add_argument('--out', metavar='FILE', help='write it to this file as well')
    add_cfg_options(parser, 'train_cfg.max_epochs=3')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        print_config(args.config, args.cfg_options, args.out)


if __name__ == '__main__':
    main()
