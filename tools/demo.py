"""Show the whole way on real images: train, search, export, deploy, verify, finetune.

Trains a small ResNet at all widths at once on 5,000 images of MNIST, searches it for half and for a
quarter of the multiply-adds, and ends with a table and a plot. Takes a few minutes on two CPU
cores; nothing is downloaded.
"""

import argparse

from mmprune.commands.command_line import add_cfg_options
from mmprune.commands.demo import run_demo
from mmprune.errors import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config',
        nargs='?',
        default='configs/demo/demo_resnet-small_1xb64_mnist.py',
        help='config of a supernet and its search (default: %(default)s)',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/demo',
        help='where everything goes; an earlier demo in it is removed (default: %(default)s)',
    )
    add_cfg_options(parser, 'train_cfg.max_epochs=3')
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_args()
    with exit_on_input_error():
        run_demo(args.config, args.work_dir, args.cfg_options)


if __name__ == '__main__':
    main()
